"""A GPU for machines that have none: tensors say that they are on it and refuse what a real one refuses, and the processor computes.

`pytest -p pretended_gpu` runs tests on it. To PyTorch it is a backend written in Python, "pretended"; to the code under test it is "cuda". It refuses to mix devices, to
make arrays of its tensors, and generators of elsewhere; it has random numbers of its own; and it knows what waits for a GPU. It knows nothing of streams, speed, memory,
rounding, or autocast."""
import contextlib
from types import SimpleNamespace
from unittest import mock

import learngene  # noqa: F401, before timm and torchvision

import accelerate  # noqa: F401, everything that looks at torch.Generator when it is imported
import pytest
import timm  # noqa: F401
import torch
import torch._dynamo
import torchvision  # noqa: F401
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.data._utils import pin_memory

CUDA, aten = torch.device("cuda", 0), torch.ops.aten
PLACES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}  # take indices from the processor, too
WAITING = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.nonzero.default, aten.masked_select.default, aten.bincount.default, aten.equal.default,
           aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor}


class Module(backend_registration._DummyBackendModule):
    "What PyTorch asks of a backend is what it asks of `torch.cuda`."
    def __getattr__(self, name):
        return getattr(torch.cuda, name)


backend_registration._setup_privateuseone_for_python_backend("pretended", Module())
BACKEND, CPU = torch.device("pretended", 0), torch.device("cpu")


class Pretended(torch.Tensor):
    "A tensor on the GPU, around one on the processor."
    device, is_cuda = property(lambda self: CUDA), property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=BACKEND)

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"{self.inner}, on a pretended GPU"

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})


class _Calls(TorchFunctionMode):
    "What has to be seen before PyTorch's own C++ takes a call to pieces."
    def __torch_function__(self, call, types, args=(), kwargs=None):
        kwargs, there = kwargs or {}, bool(args) and isinstance(args[0], Pretended)
        if call is torch.device:
            return call(*args, **kwargs)
        if there and call is torch.Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        if there and call is torch.Tensor.tolist:
            _wait()
            return args[0].inner.tolist()
        if there and call in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(i, dtype=torch.long) if isinstance(i, (list, range)) else i for i in index), *args[2:])
        if call is torch.Tensor.cuda:
            call, args = torch.Tensor.to, (args[0], CUDA)
        if call in (torch.tensor, torch.as_tensor) and _meant(kwargs.get("device")) == BACKEND and not isinstance(args[0], torch.Tensor):
            _wait()
        with GPU.using(kwargs.get("generator")):
            return call(*map(_meant, args), **{name: _meant(value) for name, value in kwargs.items()})


def _meant(x):
    "The backend, where the GPU is named."
    named = x in ("cuda", "cuda:0") if isinstance(x, str) else isinstance(x, torch.device) and x.type == "cuda"
    return BACKEND if named else x


def _run(op, args, kwargs):
    "One operation: refused, or done by the processor."
    flat, spec = tree_flatten((args, kwargs))
    tensors = [t for t in flat if isinstance(t, torch.Tensor)]
    there = {id(t.inner): t for t in tensors if isinstance(t, Pretended)}
    wanted = kwargs.get("device") and torch.device(kwargs["device"])
    moves = op in (aten._to_copy.default, aten.copy_.default)
    to_gpu = wanted == BACKEND if wanted else isinstance(args[0], Pretended) if moves or op in PLACES else bool(there)
    _refuse(op, tensors, there, moves, to_gpu)
    if op is aten.is_pinned.default:
        return True
    if op is aten._pin_memory.default:
        return args[0]
    if there and op in WAITING or _copies(op, args, kwargs, moves, to_gpu):
        _wait()
    args, kwargs = tree_unflatten([t.inner if isinstance(t, Pretended) else CPU if isinstance(t, torch.device) and t == BACKEND else t for t in flat], spec)
    kwargs.pop("pin_memory", None)
    own_dice = to_gpu and torch.Tag.nondeterministic_seeded in op.tags and GPU.asked is None
    with GPU.dice() if own_dice else contextlib.nullcontext():
        out = op(*args, **kwargs)
    return tree_map(lambda t: there[id(t)] if id(t) in there else Pretended(t) if isinstance(t, torch.Tensor) else t, out) if to_gpu else out


def _refuse(op, tensors, there, moves, to_gpu):
    "RuntimeError where a real GPU has one."
    if op in PLACES and not to_gpu and there:
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if there and not moves and op not in PLACES:
        together = op in (aten.cat.default, aten.stack.default)  # elsewhere a single number may come from the processor
        if any(not isinstance(t, Pretended) and (t.dim() or together) for t in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({op})")
    if GPU.asked is not None and (id(GPU.asked) in GPU.generators) != to_gpu:
        raise RuntimeError(f"Expected a '{'cuda' if to_gpu else 'cpu'}' device type for generator but found the other ({op})")


def _copies(op, args, kwargs, moves, to_gpu):
    "Does the processor wait until something is copied from one to the other, or until it knows how many places are meant?"
    if moves:
        source, waits = (args[0], not kwargs.get("non_blocking")) if op is aten._to_copy.default else (args[1], not (args[2:] or (kwargs.get("non_blocking"),))[0])
        return isinstance(source, Pretended) != to_gpu and waits
    if op in PLACES and to_gpu and (op is aten.index.Tensor or args[2].numel() > 1):  # a single number is filled in without counting
        return any(i is not None and (i.dtype == torch.bool or not isinstance(i, Pretended)) for i in args[1])
    return False


def _wait():
    if GPU.sync_debug == "error":
        raise RuntimeError("called a synchronizing CUDA operation")


class _GPU:
    "What a GPU remembers."
    def __init__(self):
        self.sync_debug, self.asked, self.generators, self.state = "default", None, {}, torch.Generator().manual_seed(0)

    @contextlib.contextmanager
    def using(self, generator):
        "For the time of a call that names a generator."
        before, self.asked = self.asked, generator if generator is not None else self.asked
        try:
            yield
        finally:
            self.asked = before

    @contextlib.contextmanager
    def dice(self):
        "The GPU's random numbers in place of the processor's."
        default = torch.random.default_generator
        before = default.get_state()
        default.set_state(self.state.get_state())
        try:
            yield
        finally:
            self.state.set_state(default.get_state())
            default.set_state(before)

    def module(self):
        "In place of what is in `torch.cuda`."
        def stays(*args, **kwargs):
            return None
        return dict(
            is_available=lambda: True, is_initialized=lambda: True, _lazy_init=stays, device_count=lambda: 1, current_device=lambda: 0, set_device=stays,
            get_device_name=lambda device=None: "pretended GPU", get_device_capability=lambda device=None: (9, 0), get_device_properties=lambda device=None: SimpleNamespace(total_memory=2**37), is_bf16_supported=lambda *a, **k: True,
            mem_get_info=lambda device=None: (2**37, 2**37), max_memory_allocated=lambda device=None: 2**20, reset_peak_memory_stats=stays, empty_cache=stays,
            synchronize=stays, set_sync_debug_mode=lambda mode: setattr(self, "sync_debug", mode), Stream=_Stream, current_stream=_Stream, stream=contextlib.nullcontext,
            manual_seed=self.state.manual_seed, manual_seed_all=self.state.manual_seed, get_rng_state=lambda device=None: self.state.get_state(),
            set_rng_state=lambda state, device=None: self.state.set_state(state), get_rng_state_all=lambda: [self.state.get_state()], set_rng_state_all=lambda s: self.state.set_state(s[0]))


class _Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass

    wait_event = wait_stream

    def record_event(self):
        return self


class _Kinds(type):
    def __instancecheck__(cls, x):
        return isinstance(x, torch._C.Generator)


class _Generator(metaclass=_Kinds):
    def __new__(cls, device="cpu"):
        made = torch._C.Generator()
        if torch.device(device).type == "cuda":
            GPU.generators[id(made)] = made
        return made


GPU = _GPU()


@contextlib.contextmanager
def pretended():
    "Within it there is a GPU."
    with contextlib.ExitStack() as stack:
        for name, value in GPU.module().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch, "inference_mode", torch.no_grad))  # whose tensors cannot be wrapped
        stack.enter_context(mock.patch.object(Pretended, "record_stream", lambda tensor, stream: None))
        stack.enter_context(mock.patch.object(pin_memory, "pin_memory", lambda data, device=None: data))
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        yield


_there = contextlib.ExitStack()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():  # whose marks ask for a GPU
    _there.enter_context(pretended())


def pytest_unconfigure(config):
    _there.close()
