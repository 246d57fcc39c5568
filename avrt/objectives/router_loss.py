"""The load-balancing loss of a mixture of experts (Switch Transformers, arXiv 2101.03961, eq. 4-6)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def load_balancing_loss(router_logits: Sequence[Tensor], weights: Tensor, experts_per_token: int) -> Tensor:
    """How unevenly tokens are spread over experts: E times the sum over experts of f_e P_e.

    f_e is how often expert e is among those that a token goes to, P_e the mean probability that the router gives it,
    both over all tokens of all layers together, as transformers computes it. Even routing has the number of experts of
    a token, k; the worst has E. Only P carries a gradient.

    Args:
        router_logits: For each layer that has experts (T, E).
        weights: (T,) how often each token counts, a whole number: 0 for padding, and for a prompt that is read once for
            several completions their number.
        experts_per_token: k.
    """
    experts = router_logits[0].shape[-1]
    chosen = probability = weights.new_zeros(experts)
    for logits_TE in router_logits:
        shares_TE = logits_TE.float().softmax(-1)
        best_Tk = shares_TE.topk(experts_per_token, dim=-1).indices
        chosen = chosen.index_add(0, best_Tk.flatten(), weights.repeat_interleave(experts_per_token))
        probability = probability + weights @ shares_TE
    tokens = (weights.sum() * len(router_logits)).clamp(min=1.0)
    return experts * (chosen / tokens) @ (probability / tokens)
