"""A CUDA device that is only pretended: full-size students run through the project's own code without a GPU.

Tensors on it have shapes but no data, so that 7 billion parameters take no memory and a pass takes a second; what a
program reads (lengths, masks, token ids) is small, and has values as well. Everything that the program does passes one
place, `device.PretendedDevice`, which counts:

- **kernels**: operations of PyTorch that would launch one. Views and allocations launch none; a CUDA graph is one.
- **attention calls**: fused ones, each a kernel too. `scaled_dot_product_attention` is taken for one such call.
- **synchronizations**: where the host waits for the device (`.item()`, `.tolist()`, a copy to the host, `nonzero`, a
  boolean index, ...), by the line of `avrt` or transformers that causes it.
- **blocking copies**: from the host's pageable memory, such as `torch.tensor(a_list, device="cuda")`. A copy that is
  `non_blocking` and comes from pinned memory is none.
- **memory**: live and peak bytes of all storages, each rounded up to 512 bytes as PyTorch's allocator does, with the
  lifetimes that autograd and activation checkpointing really give them. What a recorded CUDA graph needed stays taken.

A tensor of the host among those of the device is a `DeviceMismatchError`, reading a value that nobody can know an
`UnknownValueError`, and waiting while a CUDA graph is recorded an error as on CUDA.

How it works: `tensors.PretendedTensor` wraps a meta tensor, and says `cuda:0` to Python. To C++ it is a meta tensor,
and that is why PyTorch's own `FakeTensorMode` does not serve: a fake tensor claims CUDA to C++ as well, whereupon the
autograd engine asks the CUDA driver for its context and no backward pass runs without a GPU; nor does it keep values.
`operations` has the rules for operations that are not like others, `graphs` the CUDA graphs, `account` the counts.

What it cannot tell: how long anything takes; which kernel the dispatcher picks, what it allocates for itself and
whether it waits by itself; fragmentation; NCCL; what `torch.compile` fuses; FlexAttention; where in a backward pass's
C++ something waits (its line is that of the `backward` call); anything that depends on values that floating-point
arithmetic makes, of which a number that is read is 1. Sampled tokens are those that a test supplies: see `drawing`.

`models` builds the released students on it, `phases` measures the memory of a GRPO step's phases, and the tests hold
the project to the figures.
"""
