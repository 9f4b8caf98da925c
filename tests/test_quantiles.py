"""Inverse distribution functions: what they invert, to how many digits."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from dalipipe.quantiles import beta_quantile, dirichlet, gamma_quantile, ndtri

EDGE = 2.0**-33
U = np.unique(
    np.concatenate([np.linspace(EDGE, 1 - EDGE, 1501), 2.0 ** -np.arange(1, 33), 1 - 2.0 ** -np.arange(1, 33)])
)
SHAPES = (0.05, 0.2, 0.5, 1.0, 3.3, 100.0, 2e4)


def test_normal_is_the_standard_librarys() -> None:
    expected = np.array([NormalDist().inv_cdf(u) for u in U])
    assert np.abs(ndtri(U) - expected).max() < 1e-14 * 7
    assert ndtri(np.float64(0.975)) == pytest.approx(1.959963984540054, abs=1e-15)  # known


@pytest.mark.parametrize("quantile", [ndtri, beta_quantile(0.3, 2.0), gamma_quantile(0.7)])
def test_ends_are_finite_and_shapes_stay(quantile) -> None:
    u = np.array([[0.0, 0.25], [0.5, 1.0]])
    x = quantile(u)
    assert x.shape == (2, 2) and x.dtype == np.float64 and np.isfinite(x).all()
    assert x[0, 0] == quantile(np.array(EDGE)) and x[1, 1] == quantile(np.array(1 - EDGE))
    assert quantile(np.empty((0, 3))).shape == (0, 3)
    assert (np.diff(quantile(U)) >= 0).all()


@pytest.mark.parametrize("a", SHAPES)
@pytest.mark.parametrize("b", SHAPES)
def test_beta_inverts_its_distribution(a: float, b: float) -> None:
    special = pytest.importorskip("scipy.special")
    # Near 1 numbers are too coarse to tell the quantiles of a small b apart: there, those of 1 - x, Beta(b, a).
    for first, second in ((a, b), (b, a)):
        x = beta_quantile(first, second)(U)
        low = x < 0.5
        assert np.abs(special.betainc(first, second, x[low]) - U[low]).max(initial=0) < 1e-9
    assert np.abs(beta_quantile(a, b)(U) - (1 - beta_quantile(b, a)(1 - U))).max() < 1e-9


@pytest.mark.parametrize("a", SHAPES)
def test_gamma_inverts_its_distribution(a: float) -> None:
    special = pytest.importorskip("scipy.special")
    assert np.abs(special.gammainc(a, gamma_quantile(a)(U)) - U).max() < 1e-9


def test_beta_in_closed_form() -> None:
    assert np.abs(beta_quantile(1.0, 1.0)(U) - U).max() < 1e-9
    assert np.abs(beta_quantile(0.2, 1.0)(U) - U**5.0).max() < 1e-9
    assert np.abs(beta_quantile(1.0, 4.0)(U) - (1 - (1 - U) ** 0.25)).max() < 1e-9
    assert np.abs(beta_quantile(0.5, 0.5)(U) - np.sin(np.pi / 2 * U) ** 2).max() < 1e-9
    assert np.abs(gamma_quantile(1.0)(U) + np.log1p(-U)).max() < 1e-7


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.05), (0.2, 0.2), (0.8, 0.8), (2.0, 5.0)])
def test_beta_has_torchs_moments(a: float, b: float) -> None:
    torch = pytest.importorskip("torch")
    beta = torch.distributions.Beta(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    u = (np.arange(200_000) + 0.5) / 200_000  # not drawn: a midpoint rule, so that the tolerance is none of chance's
    x = beta_quantile(a, b)(u)
    assert x.mean() == pytest.approx(float(beta.mean), abs=1e-5)
    assert x.var() == pytest.approx(float(beta.variance), abs=1e-5)


@pytest.mark.parametrize("alpha", [0.001, 0.2, 1.0, 30.0])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_dirichlet_weights(alpha: float, k: int) -> None:
    n = 20_000
    w = dirichlet(alpha, np.random.default_rng(k).random((n, k)))
    assert w.shape == (n, k) and (w >= 0).all() and np.abs(w.sum(axis=1) - 1).max() < 1e-12
    variance = (k - 1) / (k * k * (k * alpha + 1))
    assert np.abs(w.mean(axis=0) - 1 / k).max() <= 4.5 * np.sqrt(variance / n) + 1e-12
    assert w.var(axis=0) == pytest.approx(np.full(k, variance), rel=0.06, abs=1e-12)


def test_two_of_a_dirichlet_are_a_beta() -> None:
    """Kolmogorov–Smirnov: the first of two weights against Beta(alpha, alpha)'s quantiles."""
    n = 20_000
    w = np.sort(dirichlet(0.5, np.random.default_rng(0).random((n, 2)))[:, 0])
    assert np.abs(np.searchsorted(w, beta_quantile(0.5, 0.5)(U)) / n - U).max() < 2.0 / np.sqrt(n)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), 1e-9, "1"])
def test_bad_shapes_are_named(bad: object) -> None:
    with pytest.raises(ValueError, match=r"beta_quantile: b must lie in \[1e-06, 1e\+06\], got"):
        beta_quantile(1.0, bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gamma_quantile: a must lie"):
        gamma_quantile(bad)  # type: ignore[arg-type]


def test_tables_are_made_once() -> None:
    assert beta_quantile(0.8, 0.8) is beta_quantile(0.8, 0.8)
