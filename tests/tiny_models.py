"""A random model that is small enough to be built in a test, saved as a folder of the hub's layout."""


def tiny_llama(folder, *, seed=0, layers=2, width=32):
    "A random Llama that reads and writes bytes; returns the folder's name."
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    letters = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(letters), hidden_size=width, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
                                 max_position_embeddings=4096, bos_token_id=None, eos_token_id=0, pad_token_id=0)).save_pretrained(folder)
    return str(folder)
