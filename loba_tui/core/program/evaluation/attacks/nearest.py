"""The order of tokens by how near their embeddings are to one of them."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(table: Tensor, token: int) -> list[int]:
    """Return all tokens but this one, those of the largest cosine with it first.

    Args:
        table: (num_tokens, D) embeddings.
    """
    exact = table.detach().float()
    similar = torch.cosine_similarity(exact, exact[token : token + 1])
    return [index for index in similar.argsort(descending=True).tolist() if index != token]
