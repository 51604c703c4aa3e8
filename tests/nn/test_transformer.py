"""The causal transformer against torch's own, and what it must never see."""

import pytest
import torch
from torch import Tensor, nn

from habitus.nn.transformer import CausalTransformer, dropped


def _model(summary: bool = False, dropout: float = 0.0) -> CausalTransformer:
    torch.manual_seed(0)
    model = CausalTransformer(12, 2, 3, dropout, 9, summary=summary)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return model


def _inputs(users: int = 4, steps: int = 9) -> Tensor:
    return torch.randn(users, steps, 12, generator=torch.Generator().manual_seed(1))


def test_equals_torch_encoder() -> None:
    """A block would not be GPT-2's: attention and network, each after a normalization, each added to what came in."""
    model, x = _model(), _inputs()
    layer = nn.TransformerEncoderLayer(12, 3, 48, 0.0, nn.functional.gelu, batch_first=True, norm_first=True)
    witness = nn.TransformerEncoder(layer, 2, model.norm, enable_nested_tensor=False)
    pairs = {
        "self_attn.in_proj": "asked",
        "self_attn.out_proj": "answer",
        "linear1": "wide",
        "linear2": "narrow",
        "norm1": "before",
        "norm2": "between",
    }
    for theirs, ours in zip(witness.layers, model.blocks, strict=True):
        own = ours.state_dict()
        state = {}
        for their_name, our_name in pairs.items():
            dot = "_" if their_name.endswith("in_proj") else "."
            state |= {f"{their_name}{dot}{part}": own[f"{our_name}.{part}"] for part in ("weight", "bias")}
        theirs.load_state_dict(state)
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    torch.testing.assert_close(model(x), witness(x + model.positions, mask=mask, is_causal=True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("summary", [False, True])
def test_later_steps_never_change_earlier_states(summary: bool) -> None:
    """A state would know the future, or a user's vector depend on the padding behind it."""
    model, x = _model(summary), _inputs()
    states = model(x)
    for step in range(1, 9):
        changed = x.clone()
        changed[:, step:] = 1e3
        assert torch.equal(model(changed)[:, :step], states[:, :step])
        assert not torch.allclose(model(changed)[:, step], states[:, step])
        torch.testing.assert_close(model(x[:, :step]), states[:, :step], atol=1e-5, rtol=1e-5)


def test_summary_is_the_past_so_far() -> None:
    """What is told of the past beside attention would not be all of it alike, or would hold the future."""
    model, x = _model(summary=True), _inputs()
    assert model.summary is not None
    inner = x + model.positions
    for block in model.blocks:
        inner = block(inner, None)
    slow = torch.stack(
        [inner[:, i] + torch.stack([model.summary(x[:, j]) for j in range(i + 1)]).sum(0) / (i + 1) ** 0.5 for i in range(9)], 1
    )
    torch.testing.assert_close(model(x), model.norm(slow), atol=1e-5, rtol=1e-5)


def test_positions_are_learned() -> None:
    """The order of the past would be lost on the model."""
    model, x = _model(), _inputs()
    backwards = torch.cat([x[:, :8].flip(1), x[:, 8:]], 1)
    assert not torch.allclose(model(x)[:, 8], model(backwards)[:, 8], atol=1e-3)


def test_nothing_is_dropped_without_a_generator() -> None:
    """Encoding would be at random, or training side by side not repeat itself."""
    x = _inputs()
    model = _model(dropout=0.5)
    assert torch.equal(model(x), _model()(x))
    first, again = (model(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and not torch.allclose(first, model(x))
    ones = dropped(torch.ones(100_000), 0.3, torch.Generator().manual_seed(0))
    assert ones.unique().tolist() == pytest.approx([0, 1 / 0.7]) and ones.mean().item() == pytest.approx(1, abs=0.01)


def test_heads_must_divide_the_width() -> None:
    """Numbers of a state would belong to no head."""
    with pytest.raises(ValueError, match="width of 10 cannot be shared among 4 heads"):
        CausalTransformer(10, 1, 4, 0.0, 5)
