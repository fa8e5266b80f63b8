from types import SimpleNamespace

import torch
from torch import nn
from transformers import CLIPTextConfig, Qwen2_5_VLConfig, T5Config

from loba_tui.core.associate.model_shapes import ModelShapes, _most_tokens, _Tokenizer


def encoder(config):
    return SimpleNamespace(config=config)


def test_a_prompt_may_have_as_many_tokens_as_its_encoder_has_positions():
    words = Qwen2_5_VLConfig(text_config={"max_position_embeddings": 1234})
    assert _most_tokens(encoder(CLIPTextConfig(max_position_embeddings=77))) == 77
    assert _most_tokens(encoder(words)) == 1234
    assert _most_tokens(encoder(T5Config())) == 512
    assert _most_tokens(None) == 77


def test_a_stand_in_takes_words_and_signs_for_tokens():
    tokenizer = _Tokenizer(77)
    one, other = tokenizer(
        ["a red car, old", "a red van"], truncation=True, max_length=77
    ).input_ids
    assert len(one) == 2 + 5
    assert one[:3] == other[:3]
    assert one[3] != other[3]
    assert max(one) < len(tokenizer)
    assert len(tokenizer(["a b c"], truncation=True, max_length=4).input_ids[0]) == 4
    padded = tokenizer(["a"], truncation=True, max_length=6, padding="max_length").input_ids[0]
    assert (len(padded), padded[:3]) == (6, [0, padded[1], 1])


def test_a_stand_in_puts_a_prompt_into_a_chat():
    chat = _Tokenizer(77).apply_chat_template(
        [{"role": "user", "content": "a car"}], tokenize=False
    )
    assert chat == "<|im_start|>user\na car<|im_end|>\n<|im_start|>assistant\n"


class WithAngles(nn.Module):
    """Holds a tensor as transformers of Qwen-Image do: neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.angles = torch.polar(torch.ones(3), torch.zeros(3))


def test_materialised_networks_have_all_their_tensors(tmp_path):
    with torch.device("meta"):
        network = WithAngles()
    assert network.angles.is_meta
    container = SimpleNamespace(
        pipeline=SimpleNamespace(components={"transformer": network}), unconditional_prompt=None
    )

    ModelShapes(container, "local", tmp_path).materialise()

    assert not network.angles.is_meta
    assert network.angles.is_complex()
    assert not network.layer.weight.any()
