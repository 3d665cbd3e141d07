import contextlib
import functools
import itertools
import math

import pytest
import torch
from torch import nn

from study.training import Batch, Halts, Slot, row_losses, train


class Line(nn.Module):
    """A denoiser in one parameter: predicts slope times what it sees; the target is the noise."""

    device = torch.device("cpu")

    def __init__(self, slope=0.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def noised(self, latents, noise, timesteps):
        return latents + timesteps.view(-1, 1, 1, 1) * noise

    def target(self, latents, noise, timesteps):
        return noise

    def predict(self, noisy, timesteps, context):
        return self.slope * noisy


def batches(weight=(1.0, 0.25)):
    generator = torch.Generator().manual_seed(0)
    rows = len(weight)
    while True:
        latents, noise = torch.randn(2, rows, 4, 2, 2, generator=generator, dtype=torch.float64).unbind()
        yield Batch(latents, noise, torch.arange(rows) + 1, torch.zeros(rows, 1, 1), torch.tensor(weight))


def by_hand(steps, learning_rate):
    """AdamW written out (1711.05101, defaults of torch), on the same batches; slope and losses."""
    slope, first, second, losses = torch.tensor(0.3, dtype=torch.float64), 0.0, 0.0, []
    for step, batch in enumerate(itertools.islice(batches(), steps), start=1):
        slope = slope.detach().requires_grad_()
        error = slope * (batch.latents + batch.timesteps.view(-1, 1, 1, 1) * batch.noise) - batch.noise
        loss = (error[0] ** 2).mean() + 0.25 * (error[1] ** 2).mean()
        (gradient,) = torch.autograd.grad(loss, slope)
        losses.append(loss.item())
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        slope = slope.detach() * (1 - learning_rate * 0.01) - learning_rate * update
    return float(slope), losses


def test_training_is_adamw_on_the_weighted_loss():
    line = Line(0.3)
    trained = train(line, [Slot([line.slope], batches(), 0.05)], 25)[0]
    slope, losses = by_hand(25, 0.05)
    assert float(line.slope) == pytest.approx(slope, rel=1e-9)
    assert [row["loss"] for row in trained.curve] == pytest.approx(losses, rel=1e-9)
    assert [row["step"] for row in trained.curve] == list(range(1, 26))
    assert trained.final_loss == pytest.approx(sum(losses[-20:]) / 20, rel=1e-9)
    assert trained.diverged == ""


def test_row_losses_are_mean_squared_errors():
    batch = next(batches())
    # Oracle: a predictor of zeros errs by the noise itself.
    torch.testing.assert_close(row_losses(Line(0.0), batch), batch.noise.square().mean((1, 2, 3)))


def test_long_curves_are_thinned_to_means_of_equal_stretches():
    line = Line(0.3)
    trained = train(line, [Slot([line.slope], batches(), 0.01)], 250)[0]
    _, losses = by_hand(250, 0.01)
    assert [row["step"] for row in trained.curve] == [*range(3, 250, 3), 250]
    assert trained.curve[1]["loss"] == pytest.approx(sum(losses[3:6]) / 3, rel=1e-9)


def test_a_parameter_given_twice_is_refused():
    line = Line()
    with pytest.raises(ValueError, match="twice"):
        train(line, [Slot([line.slope, line.slope], batches(), 0.1)], 1)


def test_nothing_to_train_is_not_trained():
    assert train(Line(), [Slot([], batches(), 0.1)], 5)[0].curve == []


def test_a_loss_that_is_not_finite_ends_the_training():
    line = Line(0.3)
    seen = []

    def poisoned():
        for step, batch in enumerate(batches(), start=1):
            seen.append(step)
            yield Batch(batch.latents * (float("nan") if step == 14 else 1), *list(vars(batch).values())[1:])

    trained = train(line, [Slot([line.slope], poisoned(), 0.1)], 1000)[0]
    assert trained.diverged == "the loss is nan at step 14"
    assert trained.final_loss != trained.final_loss
    assert len(seen) == 20


def test_parameters_that_are_not_finite_are_a_divergence():
    line = Line(0.3)
    trained = train(line, [Slot([line.slope], batches(), float("inf"))], 1)[0]
    assert trained.diverged == "a parameter is not finite after step 1"


def test_progress_is_told():
    line, told = Line(0.3), []
    train(line, [Slot([line.slope], batches(), 0.1)], 25, progress=told.append)[0]
    assert told == [10, 20, 25]


def test_a_halt_ends_a_slot_where_it_says_so_and_changes_no_other():
    lines, asked = PairOfLines(), []

    def decide(done, sound):
        asked.append((done, list(sound)))
        return [0] if done == 7 else []

    slots = [Slot([slope], batches(), 0.05) for slope in lines.slopes]
    ended, went_on = train(lines, slots, 25, rows=lines.rows, halts=Halts({3, 7, 12}, decide))
    assert asked == [(3, [0, 1]), (7, [0, 1]), (12, [1])]
    (short, losses), (long, _) = by_hand(7, 0.05), by_hand(25, 0.05)
    assert [float(slope) for slope in lines.slopes] == pytest.approx([short, long], rel=1e-9)
    assert (ended.ended, ended.steps, went_on.ended, went_on.steps) == (True, 7, False, 25)
    assert [row["loss"] for row in ended.curve] == pytest.approx(losses, rel=1e-9)
    assert math.isnan(ended.final_loss) and ended.diverged == ""


def test_a_slot_that_is_not_sound_is_not_asked_about():
    lines, asked = PairOfLines(), []
    slots = [Slot([lines.slopes[0]], batches(), float("inf")), Slot([lines.slopes[1]], batches(), 0.05)]
    trained = train(lines, slots, 5, rows=lines.rows, halts=Halts({2}, lambda *given: asked.append(given) or []))
    assert asked == [(2, [1])] and trained[0].diverged and not trained[0].ended


class Lines(Line):
    """As many parameters as slots, in float32."""

    def __init__(self, count):
        nn.Module.__init__(self)
        self.slopes = nn.ParameterList(torch.tensor([0.3]) for _ in range(count))

    @contextlib.contextmanager
    def rows(self, owners):
        self.owners = owners
        yield

    def predict(self, noisy, timesteps, context):
        return torch.stack([self.slopes[slot] for slot in self.owners]).view(-1, 1, 1, 1) * noisy


class PairOfLines(Lines):
    """Two slots in float64."""

    def __init__(self):
        nn.Module.__init__(self)
        self.slopes = nn.ParameterList(torch.tensor(0.3, dtype=torch.float64) for _ in range(2))


def floats(weight):
    for batch in batches((weight,)):
        yield Batch(batch.latents.float(), batch.noise.float(), batch.timesteps, batch.context, batch.weight)


def scaled_by_hand(weight, steps, scale, interval):
    """What torch.amp.GradScaler is documented to do, written out around plain AdamW; the slope, and updates made."""
    slope, good, made = nn.Parameter(torch.tensor([0.3])), 0, 0
    optimiser = torch.optim.AdamW([slope], lr=0.05, weight_decay=0.01)
    for batch in itertools.islice(floats(weight), steps):
        error = slope * (batch.latents + batch.noise) - batch.noise
        slope.grad = None
        (error.square().mean() * weight * torch.tensor(scale)).backward()
        slope.grad /= torch.tensor(scale)
        if slope.grad.isfinite().all():
            optimiser.step()
            made, good = made + 1, good + 1
            scale, good = (scale * 2, 0) if good == interval else (scale, good)
        else:
            scale, good = scale / 2, 0
    return slope.detach(), made


def test_in_float16_every_slot_has_the_scale_it_would_have_alone(monkeypatch):
    # Scales so large that float32 overflows, for one slot later and less often than for the other.
    weights, steps, scale, interval = (1e2, 1e4), 30, 2.0**119, 4
    scaler = functools.partial(torch.amp.GradScaler, init_scale=scale, growth_interval=interval)
    monkeypatch.setattr("torch.amp.GradScaler", scaler)

    def slot(line, place, weight):
        return Slot([line.slopes[place]], floats(weight), 0.05)

    pack = Lines(2)
    together = train(pack, [slot(pack, k, w) for k, w in enumerate(weights)], steps, "float16", pack.rows)
    counts = []
    for place, weight in enumerate(weights):
        line = Lines(1)
        (alone,) = train(line, [slot(line, 0, weight)], steps, "float16", line.rows)
        assert torch.equal(line.slopes[0], pack.slopes[place]) and alone.curve == together[place].curve
        expected, made = scaled_by_hand(weight, steps, scale, interval)
        torch.testing.assert_close(line.slopes[0].detach(), expected)
        counts.append(made)
    assert 0 < counts[1] < counts[0] < steps  # both left updates out, the second more


def test_a_penalty_is_scaled_with_its_slot_in_float16():
    def trained(precision):
        line = Lines(1)
        slot = Slot([line.slopes[0]], floats(1.0), 0.05, lambda: 3 * line.slopes[0].square().sum())
        train(line, [slot], 5, precision, line.rows)
        return line.slopes[0].detach()

    # Nothing of it is computed in float16, and scaling by powers of two changes no bit.
    assert torch.equal(trained("float16"), trained("float32"))
