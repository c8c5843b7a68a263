from __future__ import annotations

import numpy as np
import pytest
import torch

from irepdeploy.console import progress
from irepdeploy.errors import InputError, MissingError
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.recipe import load_recipe
from irepdeploy.runs.suite import SuiteRequest
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.suites.breakdown import breakdown
from irepdeploy.search.suites.naive_step import NaiveSupernet
from irepdeploy.search.suites.supernet_step import RECIPE, supernet_step
from irepdeploy.search.supernet.supernet import Supernet


@pytest.fixture
def supernet() -> Supernet:
    """In float64, with random statistics, alpha and beta; a stride and layers with and without an identity."""
    torch.manual_seed(0)
    net = build_plain("resnet18_cifar", depths=(1, 1))
    made = Supernet(net, "ireps")
    randomize_statistics(made.model.double(), seed=1)
    with torch.no_grad():
        for parameter in made.arch_parameters():
            parameter.normal_()
    return made


def subnet(supernet: Supernet, without: tuple[str, ...] = ()) -> np.ndarray:
    bits = np.random.default_rng(1).random(supernet.space.size) < 0.7
    for index, (_, column) in enumerate(supernet.space.positions):
        bits[index] &= supernet.space.branches[column] not in without
    return bits


def test_the_naive_supernet_computes_what_ours_does_in_eval_mode(supernet: Supernet) -> None:
    bits = subnet(supernet)
    naive = NaiveSupernet(supernet.model, supernet.space)
    naive.select(bits)
    supernet.select(bits)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(naive.model.eval()(images), supernet.model.eval()(images), rtol=1e-9, atol=1e-9)


def test_the_naive_step_has_our_loss_and_gradients(supernet: Supernet) -> None:
    # Without the chains, between whose parts it pads otherwise in train mode.
    bits = subnet(supernet, ("conv1x1_3x3", "conv1x1_avg3x3"))
    naive = NaiveSupernet(supernet.model.train(), supernet.space)
    images, labels = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.arange(4)
    loss = naive.step(images, labels, [bits, np.zeros_like(bits)])
    assert supernet.accumulate(images, labels, [bits, np.zeros_like(bits)]) == pytest.approx(loss)
    ours = sorted(float(p.grad.abs().sum()) for p in supernet.model.parameters() if p.grad is not None)
    theirs = sorted(float(p.grad.abs().sum()) for p in naive.model.parameters() if p.grad is not None)
    assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-9)


def test_the_projection_is_of_the_shipped_recipe() -> None:
    recipe = load_recipe(recipe_path("irep_vgg16_cifar10"))
    search = recipe.search
    val = recipe.data.options["val"]
    assert (RECIPE.train_images, RECIPE.val_images) == (50_000 - val, val)
    epochs = search.warmup_epochs + search.evolutions * search.epochs_per_evolution
    assert (RECIPE.warmup_epochs, RECIPE.epochs, RECIPE.batch_size) == (search.warmup_epochs, epochs, search.batch_size)
    assert (RECIPE.subnets, RECIPE.evolutions) == (search.subnets_per_step, search.evolutions)
    assert RECIPE.population == search.population


def test_the_projection_adds_warm_up_steps_and_evaluations() -> None:
    assert RECIPE.seconds(1, 0, 0) == 20 * 352
    assert RECIPE.seconds(0, 1, 0) == 480 * 352
    assert RECIPE.seconds(0, 0, 1) == 48


def test_a_breakdown_knows_convolutions() -> None:
    conv = torch.nn.Conv2d(8, 8, 3)
    parts = breakdown(lambda: conv(torch.zeros(4, 8, 16, 16)).sum().backward(), torch.device("cpu"))
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["convolution"] > 0
    assert parts["convolution, backward"] > 0
    assert parts["batch norm"] == 0


def test_what_cannot_be_measured_is_refused() -> None:
    with progress() as display:
        with pytest.raises(InputError, match="does not support --only"):
            supernet_step(SuiteRequest("smoke", only=["vgg16"]), display)
        if not torch.cuda.is_available():
            with pytest.raises(MissingError):
                supernet_step(SuiteRequest("smoke", device="cuda"), display)
