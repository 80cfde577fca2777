"""torch.mps.compile_shader: what a kernel gets, and every argument that does not fit its signature."""

import pytest
import torch
from torch.utils._pytree import tree_map

D = "mps"
SHADER = """
import lib.indexing;

struct Pair { float a; int b; uint8_t c; }
groupshared float shared[100];

[shader("compute")] [numthreads(64, 1, 1)]
void full(uint3 id : SV_DispatchThreadID, uniform float* out, uniform uint n, uniform float value)
{ if (id.x < n) out[id.x] = value; }

[shader("compute")] [numthreads(8, 8, 1)]
void transpose(uint3 id : SV_DispatchThreadID, uniform int* out, uniform int* x, uniform uint rows,
               uniform uint columns)
{ if (id.x < columns && id.y < rows) out[id.x * rows + id.y] = x[id.y * columns + id.x]; }

[shader("compute")] [numthreads(1, 1, 1)]
void values(uniform float* out, uniform float3 v, uniform Pair s, uniform int64_t q, uniform bool b,
            uniform float m[3], uniform float2x2 mm, uniform int8_t i8, uniform half h)
{
    out[0] = v.y; out[1] = s.a; out[2] = s.b; out[3] = s.c; out[4] = float(q); out[5] = b ? 1 : 0;
    out[6] = m[2]; out[7] = mm[0][1]; out[8] = mm[1][0]; out[9] = i8; out[10] = h;
}

[shader("compute")] [numthreads(1, 1, 1)]
void pointers(uniform float* out, uniform float** lists, uniform int64_t* sizes, uniform uint16_t* bits,
              uniform float2* points)
{ out[0] = lists[0][1]; out[1] = lists[1][2]; out[2] = float(sizes[1]); out[3] = float(bits[0]); out[4] = points[0].y; }

[shader("compute")] [numthreads(8, 8, 1)]
void reverse(uint lane : SV_GroupIndex, uniform float* x)
{ shared[lane] = x[lane]; GroupMemoryBarrierWithGroupSync(); x[lane] = shared[63 - lane]; }

[shader("compute")] [numthreads(1, 1, 1)]
void reports(uint3 id : SV_DispatchThreadID, uniform float* out, uniform ErrorWord* errors)
{ out[id.x] = 1; if (id.x == 2) report_user_error(errors, 7, id.x); }
"""


@pytest.fixture(scope="module")
def library():
    return torch.mps.compile_shader(SHADER)


def test_compile_shader(library):
    assert dir(library) == sorted(["full", "transpose", "values", "pointers", "reverse", "reports"])
    x = torch.zeros(100, device=D)
    library.full(x, 100, 3.5)
    assert (x + 1).cpu().eq(4.5).all()
    library.full(x, 100, 1.0, threads=64)
    assert x.sum().item() == 64 + 36 * 3.5
    a = torch.arange(15, dtype=torch.int32, device=D).view(3, 5)
    out = torch.empty(5, 3, dtype=torch.int32, device=D)
    library.transpose(out, a, 3, 5, threads=(5, 3))
    assert out.cpu().equal(a.cpu().t())


def test_scalars_from_tensors(library):
    """On either device; of one on ours the value is read, not its address."""
    x = torch.zeros(8, device=D)
    library.full(x, torch.tensor(6), torch.tensor(2.5, dtype=torch.float64))
    assert x.tolist() == [2.5] * 6 + [0.0] * 2
    library.full(x, torch.tensor(4, device=D), torch.tensor([0.5], device=D))
    assert x.tolist() == [0.5] * 4 + [2.5] * 2 + [0.0] * 2


def test_every_kind_of_value(library):
    out = torch.zeros(11, device=D)
    pair = {"a": 1.5, "b": -2, "c": 250}
    library.values(out, [1, 2, 3], pair, 2**40, True, (4, 5, 6), [[1, 2], [3, 4]], -5, 0.5, threads=1)
    assert out.tolist() == [2, 1.5, -2, 250, 2.0**40, 1, 6, 2, 3, -5, 0.5]
    vector = torch.tensor([1.0, 7.0, 3.0], device=D)
    library.values(out, vector, pair, 0, 0, (4, 5, 6), [[1, 2], [3, 4]], -128, float("nan"), threads=1)
    assert out[0].item() == 7 and out[5].item() == 0 and out[9].item() == -128 and out[10].isnan()


def test_every_kind_of_pointer(library):
    out, a = torch.zeros(5, device=D), torch.arange(5.0, device=D)
    points = torch.tensor([1 + 2j], device=D)
    library.pointers(out, [a, a * 10], [5, 6, 7], torch.ones(1, dtype=torch.bfloat16, device=D), points, threads=1)
    assert out.tolist() == [1, 20, 6, 0x3F80, 2]


def test_casts(library):
    x = torch.zeros(2, device=D)
    library.full(x, 2.9, 0.1, arg_casts={1: "int32", 2: "bf16"})
    assert x.tolist() == [torch.tensor(0.1).bfloat16().item()] * 2
    with pytest.raises(RuntimeError, match="Unsupported cast instruction fp8"):
        library.full(x, 2, 1.0, arg_casts="fp8")
    with pytest.raises(RuntimeError, match="Unexpected caster arg type int"):
        library.full(x, 2, 1.0, arg_casts=3)


def test_attributes(library):
    kernel = library.reverse
    assert kernel is library.reverse and kernel.static_thread_group_memory_length == 400
    assert kernel.max_threads_per_threadgroup >= 128 and kernel.thread_execution_width >= 1
    x = torch.arange(64.0, device=D)
    kernel(x, threads=(8, 8), group_size=(8, 8))
    assert x.tolist() == list(range(63, -1, -1))


def test_errors_of_a_kernel(library):
    x = torch.zeros(5, device=D)
    library.reports(x, error_buf_idx=1)
    with pytest.raises(torch.AcceleratorError, match=r"reported error 7 \(2\)"):
        torch.mps.synchronize()
    assert x.tolist() == [1.0] * 5


X = torch.zeros(4)


@pytest.mark.parametrize(
    "arguments,keywords,message",
    [
        # a tensor or nothing for a number
        ((X, X, 1.0), {}, "'n' is a single uint, got a tensor of 4 elements"),
        ((X, None, 1.0), {}, "expects a number, got NoneType"),
        ((X, "4", 1.0), {}, "expects a number, got str"),
        ((X, 4, 1j), {}, "expects a number, got complex"),
        ((X, [4], 1.0), {}, "expects a number, got list"),
        # a number or nothing for a tensor
        ((3, 4, 1.0), {"threads": 4}, "'out' is a pointer to float: expected a tensor, got int"),
        ((0, 4, 1.0), {"threads": 4}, "expected a tensor, got int"),
        ((None, 4, 1.0), {"threads": 4}, "expected a tensor, got NoneType"),
        (([], 4, 1.0), {"threads": 4}, "cannot be an empty list"),
        (([X], 4, 1.0), {"threads": 4}, "which a list of tensors is not"),
        # ranges
        ((X, -1, 1.0), {}, "without overflow"),
        ((X, 2**32, 1.0), {}, "without overflow"),
        ((X, 4, 1e39), {}, "without overflow"),
        ((X, 1.5, 1.0), {}, "pass an integer, or arg_casts"),
        # dtypes
        ((X.double(), 4, 1.0), {}, "which a tensor of torch.float64 is not"),
        ((X.int(), 4, 1.0), {}, "which a tensor of torch.int32 is not"),
        ((X.half(), 4, 1.0), {}, "which a tensor of torch.float16 is not"),
        ((X.to_sparse(), 4, 1.0), {}, "plain strided tensor"),
        # how many
        ((X,), {}, "takes 3 arguments, got 1"),
        ((X, 4, 1.0, 2), {}, "takes 3 arguments, got 4"),
        # threads
        ((X, 4, 1.0), {"threads": ()}, "threads must be one to three numbers"),
        ((X, 4, 1.0), {"threads": (1, 1, 1, 1)}, "threads must be one to three numbers"),
        ((X, 4, 1.0), {"threads": -1}, "threads must be one to three numbers"),
        ((X, 4, 1.0), {"threads": 1.5}, "threads must be one to three numbers"),
        ((X, 4, 1.0), {"threads": 1 << 60}, "the adapter runs at most"),
        ((X, 4, 1.0), {"group_size": 128}, "which a call cannot change"),
        ((X, 4, 1.0), {"group_size": (64, 1)}, "same number of dimensions"),
        ((X, 4), {"error_buf_idx": 1}, "'n', which is no ErrorWord"),
        ((X, 4, 1.0), {"error_buf_idx": 7}, "not the position of a parameter"),
    ],
)
def test_refused_arguments(library, arguments, keywords, message):
    moved = tree_map(lambda a: a.to(D) if isinstance(a, torch.Tensor) else a, arguments)
    with pytest.raises(RuntimeError, match=message):
        library.full(*moved, **keywords)


def test_tensors_of_the_cpu_are_refused(library):
    with pytest.raises(RuntimeError, match="Passed CPU tensor to MPS op"):
        library.full(X, 4, 1.0)
    with pytest.raises(RuntimeError, match="Passed CPU tensor to MPS op"):
        library.full(X.to(D), torch.ones(1), 1.0)
    with pytest.raises(RuntimeError, match="Number of threads is undefined"):
        library.full(1, 2, 3.0)


@pytest.mark.parametrize(
    "changed,message",
    [
        ({1: [1, 2]}, "expected 3 values in a list or tuple, got 2 values"),
        ({1: 1.0}, "expected 3 values in a list or tuple, got float"),
        ({2: {"a": 1, "b": 2}}, "expected a dict of a, b, c"),
        ({2: {"a": 1, "b": 2, "c": 300}}, "without overflow"),
        ({4: 2}, "is a bool, got 2"),
        ({5: (1, 2)}, "expected 3 values"),
        ({6: [[1, 2]]}, "expected 2 values"),
        ({7: 128}, "without overflow"),
        ({8: 70000.0}, "without overflow"),
    ],
)
def test_refused_values(library, changed, message):
    arguments = [X.to(D), [1, 2, 3], {"a": 1, "b": 2, "c": 3}, 1, True, (1, 2, 3), [[1, 2], [3, 4]], 1, 1.0]
    for position, value in changed.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        library.values(*arguments)


def test_sources():
    with pytest.raises(SyntaxError, match="failed to compile"):
        torch.mps.compile_shader("this is no shader")
    metal = "kernel void f(device float* a, uint i [[thread_position_in_grid]]) { a[i] = 1; }"
    for source in (metal, "#include <metal_stdlib>\n", "using namespace metal;"):
        with pytest.raises(NotImplementedError, match="takes Slang here, and this source is in Metal"):
            torch.mps.compile_shader(source)


def test_kernels_that_cannot_be_made(library):
    with pytest.raises(RuntimeError, match="has no kernel 'empty': it has full, "):
        library.empty  # noqa: B018
    assert not hasattr(library, "__deepcopy__")
    large = torch.mps.compile_shader(
        '[shader("compute")] [numthreads(1, 1, 1)] void f(uniform float* o, uniform float v[128]) { o[0] = v[1]; }'
    )
    with pytest.raises(RuntimeError, match=r"f cannot be made. Its parameters may take \d+ bytes in all"):
        large.f  # noqa: B018
