"""Laws of the Pruner: exact zeros after every step of every optimizer, exact resume, schedules kept."""

import copy
import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop

import secateurs as sc
from laws.networks import Tied, small, weights_of
from laws.strategies import fractions
from secateurs.errors import InputError, RecipeError, RequestWarning
from secateurs.schedules import Schedule

pytestmark = pytest.mark.filterwarnings("ignore::secateurs.errors.CollapseWarning")

OPTIMIZERS = {
    "sgd": lambda params: SGD(params, 0.1),
    "momentum": lambda params: SGD(params, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda params: Adam(params, 0.01),
    "fused": lambda params: Adam(params, 0.01, weight_decay=0.01, fused=True),
    "adamw": lambda params: AdamW(params, 0.01, weight_decay=0.1),
    "amsgrad": lambda params: AdamW(params, 0.01, amsgrad=True),
    "adagrad": lambda params: Adagrad(params, 0.05, weight_decay=0.01),
    "rmsprop": lambda params: RMSprop(params, 0.01, momentum=0.9, centered=True),
}
MODES = ["never", "dense", "forget"]
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
each_mode = pytest.mark.parametrize("revive", MODES)
N_STEPS = 12


def recipe(s=0.7, schedule="cubic(0.1, 0.75)", **words):
    return sc.Recipe(budget=sc.sparsity(s), schedule=schedule, **words)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 5, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def backward(module, step):
    x, y = batch(step)
    loss = functional.cross_entropy(module(x), y)
    loss.backward()
    return loss


class Training:
    """A network, its optimizer and its pruner, started the same every time."""

    def __init__(self, make=OPTIMIZERS["momentum"], rule=None, revive="never", total_steps=N_STEPS, module=None):
        torch.manual_seed(1)
        self.module = small() if module is None else module
        self.optimizer = make(self.module.parameters())
        self.pruner = sc.Pruner(self.module, rule or recipe(), self.optimizer, total_steps, revive=revive)

    def step(self, step):
        self.optimizer.zero_grad()
        backward(self.module, step)
        self.optimizer.step()
        self.pruner.step()

    def steps(self, n=N_STEPS):
        for step in range(n):
            self.step(step)
            yield step

    def run(self, n=N_STEPS):
        for _ in self.steps(n):
            pass
        return self

    def dead(self):
        """{name: True where pruned}; nothing is pruned before the schedule begins."""
        return {} if self.pruner.masks is None else {name: ~keep for name, keep in self.pruner.masks.items()}

    def states(self):
        """What stopping keeps: copies, so that going on does not change them."""
        parts = (self.module, self.optimizer, self.pruner)
        return copy.deepcopy([part.state_dict() for part in parts])


def assert_pruned_are_exact_zeros(training):
    for name, dead in training.dead().items():
        weight = training.module.get_parameter(name).detach()
        assert (weight[dead] == 0).all(), name
        assert not weight[dead].signbit().any(), name


def n_dead(training):
    return sum(int(dead.sum()) for dead in training.dead().values())


@each_optimizer
@each_mode
def test_pruned_weights_are_exactly_zero_after_every_step(make, revive):
    training = Training(make, revive=revive)
    seen = []
    for _ in training.steps():
        assert_pruned_are_exact_zeros(training)
        seen.append(n_dead(training))
    assert seen[-1] == round(0.7 * 64)
    assert seen == sorted(seen)


@each_mode
@given(s=fractions())
@settings(max_examples=20)
def test_the_end_is_exactly_the_asked_share(revive, s):
    training = Training(rule=recipe(s, "linear"), revive=revive, total_steps=3).run(3)
    assert n_dead(training) == round(s * 64)
    assert training.pruner.sparsity == pytest.approx(round(s * 64) / 64)


@each_mode
@pytest.mark.parametrize("schedule", ["linear", "cubic(0.1, 0.75)", "rounds(4)", "rounds(3, 0.2, 0.9)", "one_shot"])
def test_the_share_in_force_is_the_schedules(revive, schedule):
    training = Training(rule=recipe(0.8, schedule), revive=revive)
    for step in training.steps():
        share = Schedule.parse(schedule).share((step + 1) / N_STEPS, 1 - 0.8)
        assert n_dead(training) == round(0.8 * share * 64)


@pytest.mark.parametrize("every", [1, 3, 5])
def test_masks_change_only_every_so_many_steps_and_between_begin_and_end(every):
    training = Training(rule=recipe(0.9, f"linear(0.25, 0.75, every={every})"), total_steps=20)
    counts = [0] + [n_dead(training) for _ in training.steps(20)]
    changed = [k for k in range(1, 21) if counts[k] != counts[k - 1]]
    assert changed
    assert all(5 <= k <= 15 for k in changed)
    assert all((k - changed[0]) % every == 0 or k == 15 for k in changed[1:])
    assert counts[15] == counts[20] == round(0.9 * 64)


def test_a_one_shot_in_the_loop_waits_for_begin():
    training = Training(rule=recipe(0.5, "one_shot(begin=0.5)"), total_steps=10)
    counts = [n_dead(training) for _ in training.steps(10)]
    assert counts == [0, 0, 0, 0, *[32] * 6]


@each_optimizer
def test_never_only_shrinks_and_forgets_the_optimizers_memory(make):
    training = Training(make, revive="never")
    before = None
    for _ in training.steps():
        masks = training.pruner.masks
        assert before is None or masks.nested_in(before)
        before = masks
        for name, dead in training.dead().items():
            parameter = training.module.get_parameter(name)
            for memory in training.optimizer.state[parameter].values():
                if torch.is_tensor(memory) and memory.shape == parameter.shape:
                    assert (memory[dead] == 0).all()


BUDGETS = [
    {"budget": sc.sparsity(0.7), "min_keep": 5},
    {"budget": sc.erk(0.6), "pool": "layer"},
    {"budget": {"0.*": sc.sparsity(0.6), "2.weight": sc.top(7)}, "pool": "layer"},
    {"budget": sc.threshold(0.2), "min_keep": 2},
    {"budget": sc.threshold("0.8sigma")},
    {"budget": sc.top(2), "pool": 4, "only": ["2.weight"]},
    {"budget": sc.sparsity(0.5), "pool": "row", "score": "lamp"},
    {"budget": sc.sparsity(0.5), "score": "random(3)"},
    {"budget": sc.sparsity(0.5), "unit": "row", "pool": "layer", "score": "random"},
]


@pytest.mark.parametrize("words", BUDGETS, ids=lambda words: str(sc.Recipe(**words)))
@pytest.mark.parametrize("schedule", ["linear", "cubic(0.2, 0.8, every=2)", "rounds(3)", "one_shot"])
def test_every_budget_ends_as_asked_and_never_only_shrinks(words, schedule):
    training = Training(rule=sc.Recipe(schedule=schedule, **words), revive="never")
    before = None
    for _ in training.steps():
        assert_pruned_are_exact_zeros(training)
        assert before is None or training.pruner.masks.nested_in(before)
        before = training.pruner.masks
    at_once = sc.Masks.make(small(), sc.Recipe(**words))
    if "threshold" not in str(words["budget"]):
        n_kept = {name: int(keep.sum()) for name, keep in before.items()}
        assert before.n_kept == at_once.n_kept
        if words.get("pool", "model") != "model":
            assert n_kept == {name: int(keep.sum()) for name, keep in at_once.items()}
    for name in before:
        assert int(before[name].sum()) >= words.get("min_keep", 0)


def test_rounds_to_n_of_m_leave_survivors_geometrically_too():
    """Half of the way from 16 units to 4: 16 * sqrt(4 / 16) = 8."""
    module = nn.Linear(16, 3, bias=False)
    rule = sc.Recipe(pool="row", budget=sc.top(4), schedule="rounds(2)")
    optimizer = SGD(module.parameters(), 0.0)
    pruner = sc.Pruner(module, rule, optimizer, 4)
    n_kept = []
    for _ in range(4):
        module.weight.grad = torch.zeros_like(module.weight)
        optimizer.step()
        pruner.step()
        n_kept.append(int((module.weight != 0).sum()) // 3)
    assert n_kept == [16, 8, 8, 4]


def test_two_pruners_of_one_optimizer_each_have_their_own_weights():
    module = small()
    optimizer = OPTIMIZERS["adamw"](module.parameters())
    pruners = [
        sc.Pruner(module, recipe(0.5, "linear", only=["0.*"]), optimizer, 4),
        sc.Pruner(module, recipe(0.25, "linear", only=["2.*"]), optimizer, 8, revive="dense"),
    ]
    for step in range(8):
        backward(module, step)
        optimizer.step()
        for pruner in pruners:
            pruner.step()
    assert [int((module[i].weight == 0).sum()) for i in (0, 2)] == [20, 6]


@each_mode
def test_a_pruned_weight_returns_only_where_it_may(revive):
    """A weight is pruned while small; then its gradient pushes it to be the largest."""
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.1, 1.0]]))
    optimizer = SGD(module.parameters(), 1.0)
    pruner = sc.Pruner(module, recipe(0.5, "one_shot"), optimizer, 4, revive=revive)
    for _ in range(4):
        module.weight.grad = torch.tensor([[-0.4, 0.0]])
        optimizer.step()
        pruner.step()
        assert int((module.weight == 0).sum()) == 1
    # The dense copy of the first weight is 0.1 + 4 * 0.4 at the end; without memory it never passes 0.4.
    expected = [[1.7, 0.0]] if revive == "dense" else [[0.0, 1.0]]
    torch.testing.assert_close(module.weight.detach(), torch.tensor(expected))


def test_dense_is_straight_through_gradient_descent():
    """The parameter is keep x dense, and dense takes the gradients of the pruned network, step by step."""
    training = Training(lambda params: SGD(params, 0.1), recipe(0.5, "one_shot"), "dense")
    twin = copy.deepcopy(training.module)
    dense = weights_of(twin)
    for step in range(6):
        twin.zero_grad()
        backward(twin, step)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                dense[name] -= 0.1 * parameter.grad
            scores = {name: dense[name].abs() for name in ("0.weight", "2.weight")}
            keep = sc.select(scores, sc.element, sc.model, sc.sparsity(0.5))
            for name, parameter in twin.named_parameters():
                parameter.copy_(dense[name] * keep.get(name, 1))
        training.step(step)
        assert all(torch.equal(training.pruner.masks[name], keep[name]) for name in keep)
        for name, parameter in training.module.named_parameters():
            torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=1e-5, atol=1e-6)


def test_forget_zeroes_what_is_below_tau_and_remembers_nothing():
    """The rule of the story: after every step, whatever is at most tau is zero, whoever was zero before."""
    rule = sc.Recipe(budget=sc.threshold(0.2))
    training = Training(rule=rule, revive="forget")
    plain, optimizer = copy.deepcopy(training.module), None
    optimizer = OPTIMIZERS["momentum"](plain.parameters())
    for step in training.steps():
        optimizer.zero_grad()
        backward(plain, step)
        optimizer.step()
        with torch.no_grad():
            for parameter in plain.parameters():
                if parameter.dim() == 2:
                    parameter[parameter.abs() <= 0.2] = 0.0
        assert all(torch.equal(p, q) for p, q in zip(training.module.parameters(), plain.parameters(), strict=True))


def test_a_tau_in_sigmas_is_set_once_and_then_frozen():
    training = Training(rule=sc.Recipe(budget=sc.threshold("0.5sigma")), revive="forget")
    taus = [{line.name: line.tau for line in training.pruner.masks.report} for _ in training.steps()]
    assert taus[0]["0.weight"] > 0
    assert all(tau == taus[0] for tau in taus)


@each_mode
@pytest.mark.parametrize("schedule", ["one_shot", "linear", "cubic(0.1, 0.75)", "one_shot(begin=0.5)"])
def test_start_applies_what_the_schedule_asks_for_at_once(revive, schedule):
    training = Training(rule=recipe(0.5, schedule), revive=revive)
    training.pruner.start()
    assert n_dead(training) == (32 if schedule == "one_shot" else 0)
    assert_pruned_are_exact_zeros(training)
    training.run()
    assert n_dead(training) == 32
    before = weights_of(training.module)
    training.pruner.start()
    assert all(torch.equal(training.module.get_parameter(name), value) for name, value in before.items())


@pytest.mark.parametrize("schedule", ["one_shot", "linear"])
def test_nothing_is_pruned_before_the_first_optimizer_step(schedule):
    training = Training(rule=recipe(0.9, schedule))
    training.pruner.step()
    assert n_dead(training) == 0
    assert all((parameter != 0).any() for parameter in training.module.parameters())


def test_step_without_an_optimizer_step_does_not_advance():
    training = Training(rule=recipe(0.9, "linear"), total_steps=10)
    for _ in range(20):
        training.pruner.step()
    assert n_dead(training) == 0
    training.step(0)
    for _ in range(20):
        training.pruner.step()
    assert n_dead(training) == round(0.09 * 64)


def test_accumulated_gradients_count_once_per_optimizer_step():
    training = Training(rule=recipe(0.8, "linear"), total_steps=4)
    for micro in range(16):
        backward(training.module, micro)
        if micro % 4 == 3:
            nn.utils.clip_grad_norm_(training.module.parameters(), 0.1)
            training.optimizer.step()
            training.optimizer.zero_grad()
        training.pruner.step()
        assert n_dead(training) == round(0.2 * ((micro + 1) // 4) * 64)
        assert_pruned_are_exact_zeros(training)


@pytest.mark.parametrize("make", [OPTIMIZERS["momentum"], OPTIMIZERS["fused"]], ids=["plain", "fused"])
def test_a_step_that_the_grad_scaler_skips_does_not_advance(make):
    """A plain optimizer is not called; a fused one is, and skips by itself."""
    training = Training(make, rule=recipe(0.8, "linear"), total_steps=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    counts = []
    for step, is_broken in enumerate([False, True, False, True, True, False, False]):
        training.optimizer.zero_grad()
        x, y = batch(step)
        scaler.scale(functional.cross_entropy(training.module(x), y)).backward()
        if is_broken:
            training.module[0].weight.grad[0, 0] = float("inf")
        scaler.step(training.optimizer)
        scaler.update()
        training.pruner.step()
        counts.append(n_dead(training))
        assert_pruned_are_exact_zeros(training)
    assert counts == [round(0.2 * k * 64) for k in (1, 1, 2, 2, 2, 3, 4)]


def test_an_average_of_the_weights_is_masked_on_request():
    training = Training()
    average = torch.optim.swa_utils.AveragedModel(
        training.module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    for _ in training.steps():
        average.update_parameters(training.module)
    training.pruner.apply(average)
    for name, dead in training.dead().items():
        weight = average.module.get_parameter(name).detach()
        assert (weight[dead] == 0).all()
        assert (weight[~dead] != 0).all()


@each_optimizer
@each_mode
@pytest.mark.parametrize("stop", [0, 1, 5, 10, 12])
def test_stopped_and_resumed_is_bit_identical_to_uninterrupted(make, revive, stop, tmp_path):
    whole = Training(make, revive=revive).run()
    torch.save(Training(make, revive=revive).run(stop).states(), tmp_path / "state")
    resumed = Training(make, revive=revive)
    for part, state in zip(
        (resumed.module, resumed.optimizer, resumed.pruner),
        torch.load(tmp_path / "state", weights_only=True),
        strict=True,
    ):
        part.load_state_dict(state)
    for step in range(stop, N_STEPS):
        resumed.step(step)
    for name, parameter in whole.module.named_parameters():
        assert torch.equal(parameter, resumed.module.get_parameter(name)), name
    assert whole.dead().keys() == resumed.dead().keys()
    assert all(torch.equal(dead, resumed.dead()[name]) for name, dead in whole.dead().items())
    assert whole.pruner.masks.report == resumed.pruner.masks.report


@pytest.mark.parametrize("stop", [0, 1, 5, 10])
@pytest.mark.parametrize("budget", [sc.threshold("0.5sigma"), sc.threshold(0.2), sc.top(20)])
@each_mode
def test_a_resumed_run_keeps_its_taus(budget, stop, revive):
    rule = sc.Recipe(budget=budget, schedule="linear(0.2, 0.8, every=3)")
    whole = Training(rule=rule, revive=revive).run()
    resumed = Training(rule=rule, revive=revive)
    for part, state in zip(
        (resumed.module, resumed.optimizer, resumed.pruner),
        Training(rule=rule, revive=revive).run(stop).states(),
        strict=True,
    ):
        part.load_state_dict(state)
    for step in range(stop, N_STEPS):
        resumed.step(step)
    for name, parameter in whole.module.named_parameters():
        assert torch.equal(parameter, resumed.module.get_parameter(name)), name


def test_the_state_of_another_pruner_is_refused():
    state = Training().run(3).pruner.state_dict()
    for other in (Training(rule=recipe(0.5)), Training(revive="dense"), Training(total_steps=99)):
        with pytest.raises(InputError):
            other.pruner.load_state_dict(state)
    assert Training().pruner.load_state_dict(state) is None


def test_state_taken_in_the_loop_does_not_change_afterwards():
    training = Training(revive="dense").run(6)
    state = training.pruner.state_dict()
    before = copy.deepcopy(state)
    training.run(6)
    assert all(torch.equal(state["keep"][name], before["keep"][name]) for name in before["keep"])
    assert all(torch.equal(state["dense"][name], before["dense"][name]) for name in before["dense"])


@each_mode
def test_a_network_copied_while_pruning_is_a_network_of_its_own(revive):
    training = Training(revive=revive).run(6)
    twin = copy.deepcopy(training.module)
    before = weights_of(twin)
    assert list(twin.state_dict()) == list(small().state_dict())
    training.run(6)
    assert all(torch.equal(twin.get_parameter(name), value) for name, value in before.items())
    assert twin(batch(0)[0]).shape == (16, 3)


@each_mode
def test_a_training_copied_whole_goes_on_pruning(revive):
    """deepcopy of an optimizer drops its hooks; a pruner that counts by one must not fall silent."""
    training = Training(revive=revive).run(6)
    twin = copy.deepcopy(training)
    for step in range(6, N_STEPS):
        training.step(step)
        twin.step(step)
    assert n_dead(twin) == n_dead(training) == round(0.7 * 64)
    for name, parameter in training.module.named_parameters():
        assert torch.equal(twin.module.get_parameter(name), parameter), name


def test_schedulers_of_the_rate_and_optimizers_with_closures_keep_the_count():
    training = Training(rule=recipe(0.8, "linear"), total_steps=4)
    rate = torch.optim.lr_scheduler.StepLR(training.optimizer, 1)
    for step in training.steps(4):
        rate.step()
        assert n_dead(training) == round(0.2 * (step + 1) * 64)
    module = small()
    optimizer = torch.optim.LBFGS(module.parameters(), 0.1, max_iter=3)
    pruner = sc.Pruner(module, recipe(0.8, "linear"), optimizer, 4)
    for n in range(1, 5):
        optimizer.step(lambda: optimizer.zero_grad() or backward(module, 0))
        pruner.step()
        assert int((module[0].weight == 0).sum() + (module[2].weight == 0).sum()) == round(0.2 * n * 64)


@each_mode
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_pruned_as_exactly(revive, dtype):
    training = Training(OPTIMIZERS["adamw"], revive=revive, module=small().to(dtype))
    for step in range(N_STEPS):
        training.optimizer.zero_grad()
        x, y = batch(step)
        functional.cross_entropy(training.module(x.to(dtype)), y).backward()
        training.optimizer.step()
        training.pruner.step()
        assert_pruned_are_exact_zeros(training)
    assert n_dead(training) == round(0.7 * 64)
    assert {parameter.dtype for parameter in training.module.parameters()} == {dtype}


@each_mode
def test_tied_weights_stay_tied_and_are_pruned_once(revive):
    module = Tied()
    optimizer = OPTIMIZERS["adamw"](module.parameters())
    pruner = sc.Pruner(module, recipe(0.5), optimizer, 8, revive=revive)
    for _ in range(8):
        optimizer.zero_grad()
        module(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
        pruner.step()
    assert module.first.weight is module.second.weight
    assert pruner.masks.n_weights == 36 + 18
    assert pruner.masks.n_weights - pruner.masks.n_kept == 27
    assert (module.first.weight[~pruner.masks["first.weight"]] == 0).all()


@pytest.mark.parametrize("unit", ["row", "column", "block(2, 1)"])
@each_mode
def test_whole_units_die_in_the_loop(unit, revive):
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    training = Training(rule=recipe(0.5, unit=unit, pool="layer"), revive=revive, module=module)
    for _ in training.steps():
        assert_pruned_are_exact_zeros(training)
    for layer in (module[0], module[2]):
        scores = {"row": layer.weight.abs().amax(1), "column": layer.weight.abs().amax(0)}
        units = scores.get(unit, layer.weight.abs().unflatten(0, (-1, 2)).amax(1).flatten()).detach()
        assert int((units == 0).sum()) == round(0.5 * len(units))


def test_a_compiled_network_is_pruned_under_its_own_names():
    module = small()
    training = Training(module=torch.compile(module, backend="eager")).run()
    assert sorted(training.pruner.masks) == ["0.weight", "2.weight"]
    assert int((module[0].weight == 0).sum()) + int((module[2].weight == 0).sum()) == round(0.7 * 64)


def test_impossible_requests_are_told_before_the_first_step():
    module = small()
    optimizer = SGD(module.parameters(), 0.1)
    with pytest.raises(RecipeError):
        sc.Pruner(module, recipe(), optimizer, 0)
    with pytest.raises(RecipeError, match="Did you mean 'never'"):
        sc.Pruner(module, recipe(), optimizer, 10, revive="nevr")
    with pytest.raises(RecipeError, match=r"0\.weight"):
        sc.Pruner(module, recipe(only=["0.wight"]), optimizer, 10)
    with pytest.raises(RecipeError):
        sc.Pruner(module, recipe(0.99, min_keep=30), optimizer, 10)
    with pytest.raises(RecipeError):
        sc.Pruner(module, recipe(), SGD(small().parameters(), 0.1), 10)


@each_mode
def test_two_of_four_trains_through_with_a_min_keep(revive):
    rule = sc.Recipe(pool=4, budget=sc.top(2), min_keep=4, schedule="linear", only=["2.weight"])
    assert n_dead(Training(rule=rule, revive=revive).run()) == 12


@pytest.mark.parametrize("revive", ["never", "dense"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("sigmas"),
        lambda state: state.update(later=1),
        lambda state: state.update(n_steps="3"),
        lambda state: state.update(n_pending=-1),
        lambda state: state.update(n_chosen=None),
        lambda state: state.update(sigmas=[1]),
        lambda state: state.update(sigmas={"0.weight": "x"}),
        lambda state: state.update(keep=[1]),
        lambda state: state["keep"].pop("0.weight"),
        lambda state: state["keep"].update({"0.weight": torch.ones(8, 5)}),
        lambda state: state["keep"].update({"0.weight": torch.ones(5, 8, dtype=torch.bool)}),
        lambda state: state["keep"].update({"0.weight": None}),
        lambda state: state.update(dense={"0.weight": torch.ones(2)}),
        lambda state: state.update(dense=7),
        lambda state: state.update(report=[{}]),
        lambda state: state.update(report=3),
        lambda state: state["report"][0].update(status="gone"),
        lambda state: state["report"][0].update(later=1),
    ],
)
def test_a_malformed_state_is_one_input_error_and_changes_nothing(damage, revive):
    state, pruner = Training(revive=revive).run(3).pruner.state_dict(), Training(revive=revive).pruner
    damage(state)
    with pytest.raises(InputError):
        pruner.load_state_dict(state)
    assert (pruner.n_steps, pruner.masks) == (0, None)


def test_no_state_at_all_is_an_input_error():
    for state in ({}, None, [1]):
        with pytest.raises(InputError):
            Training().pruner.load_state_dict(state)


def test_weights_tied_by_memory_alone_lose_the_optimizers_memory_under_both_names():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = nn.Parameter(module[0].weight.data)
    optimizer = Adam(module.parameters(), 0.01)
    pruner = sc.Pruner(module, recipe(0.5, "one_shot"), optimizer, 2)
    module(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    pruner.step()
    dead = ~pruner.masks["0.weight"]
    assert list(pruner.masks) == ["0.weight"]
    assert all((optimizer.state[layer.weight]["exp_avg"][dead] == 0).all() for layer in module)


@each_optimizer
def test_held_masks_stay_whatever_the_recipe_would_choose(make):
    masks = sc.Masks.make(small(), recipe(0.8, score="random(seed=3)"))
    training = Training(make)
    training.pruner.hold(masks)
    for _ in range(N_STEPS):
        assert training.pruner.masks == masks
        assert_pruned_are_exact_zeros(training)
        training.run(1)
    assert training.pruner.masks == masks


def test_masks_are_not_held_by_a_pruner_that_forgets():
    with pytest.raises(RecipeError, match="holds no masks"):
        Training(revive="forget").pruner.hold(sc.Masks.make(small(), recipe()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_dies_is_plain_zero_in_every_dtype_and_layout(dtype):
    module = nn.Conv2d(4, 6, 3, bias=False).to(dtype).to(memory_format=torch.channels_last)
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    pruner = sc.Pruner(module, recipe(0.5, "one_shot"), optimizer, 2)
    module.weight.grad = torch.randn_like(module.weight)
    optimizer.step()
    before = module.weight.detach().clone()
    pruner.step()
    keep = pruner.masks["weight"]
    assert torch.equal(module.weight[keep], before[keep])
    assert not module.weight[~keep].signbit().any()
    assert not module.weight[~keep].any()
    # A gradient that is not finite kills no mask either.
    module.weight.grad = torch.where(keep, 0.0, torch.nan).to(dtype)
    optimizer.step()
    pruner.step()
    assert not module.weight[~keep].any()
    assert not optimizer.state[module.weight]["momentum_buffer"][~keep].any()


@each_mode
def test_zeros_that_came_back_without_a_counted_step_go_again_with_a_warning(revive):
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    pruner = sc.Pruner(module, recipe(0.5, "one_shot(end=0.0)"), SGD(module.parameters(), 0.1), 10, revive=revive)
    pruner.start()
    pruner.step()  # nothing was changed: no warning
    other = SGD(module.parameters(), 0.1, momentum=0.9)
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    other.step()
    with pytest.warns(RequestWarning, match="another one did, or weights were loaded"):
        pruner.step()
    assert pruner.n_steps == 0
    for name, keep in pruner.masks.items():
        assert not module.get_parameter(name)[~keep].any()
    pruner.step()
    module.load_state_dict({name: torch.ones_like(value) for name, value in module.state_dict().items()})
    with pytest.warns(RequestWarning, match="took no step"):
        pruner.step()
    assert all(not module.get_parameter(name)[~keep].any() for name, keep in pruner.masks.items())


def test_a_network_that_processes_share_is_noticed_inside_other_wrappers():
    module = small()
    spread = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(spread)
    spread.module = module
    optimizer = SGD(module.parameters(), lr=0.1)
    for each, is_shared in ((module, False), (spread, True)):
        compiled = torch.compile(each, backend="eager")
        assert sc.Pruner(compiled, sc.Recipe(budget="sparsity(0.5)"), optimizer, 4).is_shared is is_shared


def test_an_optimizer_does_not_keep_its_pruners_alive():
    module = small()
    optimizer = SGD(module.parameters(), lr=0.1)
    pruner = sc.Pruner(module, sc.Recipe(budget="sparsity(0.5)"), optimizer, 4)
    gone = weakref.ref(pruner)
    del pruner
    gc.collect()
    assert gone() is None
    optimizer.step()
