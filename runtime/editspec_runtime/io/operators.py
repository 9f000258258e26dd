"""The operators of ATen that a graph of others may call: those that only compute.

Others read and write files, take raw pointers in tensors, trust sizes and indices that they are
given, change storages under tensors, or compute for as long as a number says. How much those that
are allowed make and compute is found by `dry_run`.
"""

from __future__ import annotations

import re
from typing import Any

import torch

ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
PYTHON = re.compile(r"_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|ge|le|lt|gt)")

COMPOSITE = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul mv dot
    outer einsum baddbmm addmv batch_norm instance_norm group_norm layer_norm rms_norm
    native_batch_norm dropout feature_dropout alpha_dropout feature_alpha_dropout softmax
    log_softmax flatten unflatten reshape view_as reshape_as expand_as transpose t swapaxes swapdims
    movedim moveaxis chunk split tensor_split unbind stack hstack vstack dstack concat concatenate
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_shuffle
    pixel_unshuffle channel_shuffle pad replication_pad1d zero contiguous detach to type_as
    std std_mean var_mean norm linalg_vector_norm cumprod logsumexp logcumsumexp prelu
    _prelu_kernel glu hardswish log_sigmoid logsigmoid zeros ones zeros_like ones_like empty_like
    new_zeros new_ones new_full new_empty linspace eye lift_fresh lift_fresh_copy repeat_interleave
    roll rot90 tile broadcast_to narrow max_pool1d max_pool2d max_pool3d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d scaled_dot_product_attention
    grid_sampler affine_grid_generator _weight_norm
    _weight_norm_interface _unsafe_view _assert_tensor_metadata _assert_scalar sym_constrain_range
    sym_constrain_range_for_size numpy_T rand_like randn_like bernoulli diag diag_embed tril triu
    fft_fft fft_fft2 fft_ifft fft_ifft2 fft_rfft fft_rfft2 fft_irfft fft_irfft2 view_as_real
    view_as_complex real imag complex polar floor_divide __and__ __or__ all index_add index_copy
    index_fill masked_select take take_along_dim bucketize unfold im2col cosine_similarity
    pairwise_distance argsort msort count_nonzero cummax cummin median square rsub
    """.split()  # noqa: SIM905 - a table of words
)
"""Operators that torch has no tag for, and those that others are made of."""

DENIED = re.compile(
    r"resize_.*|set_.*|_embedding_bag|_pdist_forward|_cdist_forward|\w+_backward"
    r"|special_\w+_polynomial_\w+|mvlgamma_?|_local_scalar_dense"
)
"""Operators that trust what they are given, change storages, or count up to a number."""


def is_harmless(target: str) -> bool:
    """Whether a graph may call what torch finds under this name."""
    if PYTHON.fullmatch(target):
        return True
    found = ATEN.fullmatch(target)
    if found is None or DENIED.fullmatch(found[1]):
        return False
    base, overload_name = found.groups()
    overload = getattr(getattr(torch.ops.aten, base, None), overload_name, None)
    if not isinstance(overload, torch._ops.OpOverload):
        return False
    # A tensor to write the result to would be resized.
    if any(argument.is_out for argument in overload._schema.arguments):
        return False
    # Operators on numbers alone divide by zero, which ends the process.
    returns = overload._schema.returns
    if returns and not base.startswith("sym_") and not any(map(_is_tensor, returns)):
        return False
    plain = base.removesuffix("_") if not base.endswith("__") else base
    tagged = {torch.Tag.core, torch.Tag.pointwise} & set(overload.tags)
    return plain in COMPOSITE or bool(tagged) or _is_core(plain)


def _is_tensor(returned: Any) -> bool:
    """Whether an operator gives a tensor, or a list of them, in this place."""
    return "Tensor" in str(returned.type)


def _is_core(base: str) -> bool:
    """Whether any form of an operator is one of the few that all others are made of."""
    packet = getattr(torch.ops.aten, base, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return False
    return any(torch.Tag.core in getattr(packet, name).tags for name in packet.overloads())  # type: ignore[no-untyped-call]
