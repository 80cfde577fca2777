"""Collectives of torch.distributed by name: what each takes and gives, on any device. Run by test_collectives.py."""

import torch
import torch.distributed as dist

# What gloo has; and those that it lacks, with what stands for them on the CPU.
DTYPES = {dtype: dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8)}
DTYPES |= {dtype: dtype for dtype in (torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64)}
DTYPES |= {torch.int16: torch.int32, torch.uint16: torch.int32, torch.uint32: torch.int64}
DTYPES |= {torch.float8_e4m3fn: torch.float32, torch.complex128: torch.complex64}


def values(count, dtype, device, base=1):
    """Small numbers, which are exact in all dtypes, and others on each rank."""
    return (torch.arange(count) % 3 + dist.get_rank() + base).to(dtype).to(device)


def results(name, dtype, device):
    """The tensors that the collective has filled on this rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    x = values(6, dtype, device).reshape(2, 3)
    parts = [torch.zeros_like(x) for _ in range(size)]
    others = [values(6, dtype, device, place).reshape(2, 3) for place in range(size)]
    match name:
        case "all_reduce":
            dist.all_reduce(x)
        case "all_reduce, transposed":
            x = x.t()
            dist.all_reduce(x)
        case "all_reduce, every other":
            x = values(12, dtype, device)[::2]
            x = x.contiguous() if device == "cpu" else x  # gloo reduces what lies between, and says nothing
            dist.all_reduce(x)
        case "all_reduce, one number":
            x = values(1, dtype, device)[0]
            dist.all_reduce(x)
        case "all_reduce, nothing":
            x = x[:0]
            dist.all_reduce(x)
        case "maximum" | "minimum" | "product":
            x = x.real.contiguous() if x.is_complex() else x
            operation = {"maximum": dist.ReduceOp.MAX, "minimum": dist.ReduceOp.MIN, "product": dist.ReduceOp.PRODUCT}
            dist.all_reduce(x, op=operation[name])
        case "all_reduce_coalesced":
            dist.all_reduce_coalesced([x, others[0]])
            return [x, others[0]]
        case "broadcast":
            dist.broadcast(x, size - 1)
        case "reduce":
            dist.reduce(x, 0)
            return [x] if rank == 0 else []
        case "all_gather":
            dist.all_gather(parts, x)
            return parts
        case "all_gather, into rows":
            whole = x.new_zeros(2 * size, 3)
            dist.all_gather(list(whole.split(2)), x)
            return [whole]
        case "all_gather_into_tensor":
            x = torch.cat(parts)
            dist.all_gather_into_tensor(x, others[0])
        case "all_gather_into_tensor, in place":
            whole = torch.cat(others)
            dist.all_gather_into_tensor(whole, whole[2 * rank : 2 * rank + 2])
            return [whole]
        case "gather":
            if x.is_complex():  # gloo has none on the CPU
                x, parts = torch.view_as_real(x), [torch.view_as_real(part) for part in parts]
            dist.gather(x, parts if rank == 0 else None)
            return parts if rank == 0 else []
        case "scatter":
            dist.scatter(x, others if rank == 0 else None)
        case "reduce_scatter":
            dist.reduce_scatter(x, others)
        case "reduce_scatter_tensor":
            dist.reduce_scatter_tensor(x, torch.cat(others))
        case "all_to_all":
            dist.all_to_all(parts, others)
            return parts
        case "all_to_all_single":
            whole, x = torch.cat(others).flatten(), torch.zeros_like(torch.cat(others).flatten())
            dist.all_to_all_single(x, whole)
        case "all_to_all_single, uneven":  # from each rank one element more than from the one before
            sent = [place + 1 for place in range(size)]
            x = values(size * (rank + 1), dtype, device).zero_()
            dist.all_to_all_single(x, values(sum(sent), dtype, device), [rank + 1] * size, sent)
        case "send and recv":
            if rank == 0:
                dist.send(x, 1)
                return []
            if rank == 1:
                sender = dist.recv(parts[0]) if dtype == torch.float32 else dist.recv(parts[0], 0)
                assert sender == 0
            return parts[:1]
        case "a ring":
            ring = [
                dist.P2POp(dist.irecv, parts[0], (rank - 1) % size),
                dist.P2POp(dist.isend, x, (rank + 1) % size),
            ]
            for work in dist.batch_isend_irecv(ring):
                work.wait()
            return parts[:1]
        case "asynchronous":
            works = [dist.all_reduce(tensor, async_op=True) for tensor in (x, *others)]
            for work in works:
                work.wait()
            assert all(work.is_completed() for work in works)
            return [x, *others]
        case "a future":
            future = dist.all_reduce(x, async_op=True).get_future()
            return future.then(lambda done: [tensor.clone() for tensor in done.value()]).wait()
        case "a coalescing manager":
            with dist._coalescing_manager(async_ops=True) as manager:
                dist.all_reduce(x)
                dist.all_reduce(others[0])
            manager.wait()
            return [x, others[0]]
    return [x]


NAMES = """all_reduce;all_reduce, transposed;all_reduce, every other;all_reduce, one number;all_reduce, nothing;maximum
minimum;product;all_reduce_coalesced;broadcast;reduce;all_gather;all_gather, into rows;all_gather_into_tensor
all_gather_into_tensor, in place;gather;scatter;reduce_scatter;reduce_scatter_tensor;all_to_all;all_to_all_single
all_to_all_single, uneven;send and recv;a ring;asynchronous;a future;a coalescing manager"""


def outcome(name, dtype, device):
    try:
        return [tensor.cpu() for tensor in results(name, dtype, device)]
    except (RuntimeError, ValueError, TypeError) as error:
        return error


def same(ours, expected):
    if isinstance(ours, Exception) or isinstance(expected, Exception):
        return type(ours) is type(expected)
    return len(ours) == len(expected) and all(
        torch.equal(a.to(b.dtype), b) and a.shape == b.shape for a, b in zip(ours, expected, strict=True)
    )


def compare():
    """Print how many collectives were as on the CPU, and each that was not."""
    count = 0
    for name in NAMES.replace("\n", ";").split(";"):
        for dtype, on_cpu in DTYPES.items():
            ours, expected = outcome(name, dtype, "mps"), outcome(name, on_cpu, "cpu")
            if same(ours, expected):
                count += not isinstance(ours, Exception)
            else:
                print(name, dtype, ours, expected, flush=True)
    print(count)
