"""A generator of another device is named in the error, whichever operator it is given to."""

import pytest
import torch

CALLS = {
    "randn": lambda x, g: torch.randn(2, device=x.device, generator=g),
    "rand": lambda x, g: torch.rand(2, device=x.device, generator=g),
    "randint": lambda x, g: torch.randint(3, (2,), device=x.device, generator=g),
    "randperm": lambda x, g: torch.randperm(3, device=x.device, generator=g),
    "normal": lambda x, g: torch.normal(0.0, 1.0, (2,), device=x.device, generator=g),
    "normal.Tensor_float": lambda x, g: torch.normal(x, 1.0, generator=g),
    "normal.Tensor_Tensor": lambda x, g: torch.normal(x, x, generator=g),
    "bernoulli": lambda x, g: torch.bernoulli(x, generator=g),
    "bernoulli_.float": lambda x, g: x.bernoulli_(0.3, generator=g),
    "bernoulli_.Tensor": lambda x, g: x.bernoulli_(x.clone(), generator=g),
    "multinomial": lambda x, g: torch.multinomial(x, 2, generator=g),
    "poisson": lambda x, g: torch.poisson(x, generator=g),
    "binomial": lambda x, g: torch.binomial(x, x, generator=g),
    "uniform_": lambda x, g: x.uniform_(generator=g),
    "normal_": lambda x, g: x.normal_(generator=g),
    "exponential_": lambda x, g: x.exponential_(generator=g),
    "cauchy_": lambda x, g: x.cauchy_(generator=g),
    "log_normal_": lambda x, g: x.log_normal_(generator=g),
    "geometric_": lambda x, g: x.geometric_(0.3, generator=g),
    "random_": lambda x, g: x.random_(generator=g),
    "random_.to": lambda x, g: x.random_(3, generator=g),
    "random_.from": lambda x, g: x.random_(1, 3, generator=g),
    "_standard_gamma": lambda x, g: torch._standard_gamma(x, g),
    "_sample_dirichlet": lambda x, g: torch._sample_dirichlet(x, g),
    "rrelu_with_noise": lambda x, g: torch.ops.aten.rrelu_with_noise(x, torch.empty_like(x), 0.1, 0.3, True, g),
    "trunc_normal_": lambda x, g: torch.nn.init.trunc_normal_(x, generator=g),
}


@pytest.mark.parametrize("device,other", [("mps", "cpu"), ("cpu", "mps")])
@pytest.mark.parametrize("name", CALLS)
def test_generator_of_another_device(name, device, other):
    x = torch.full((4, 4), 0.5, device=device)
    with pytest.raises(RuntimeError, match=f"Expected a '{device}' .*generator.* found '{other}"):
        CALLS[name](x, torch.Generator(other))
