"""A GPU for machines that have none: the CPU computes, and refuses what a GPU refuses.

`pytest -p pretended_gpu` runs tests on it. To PyTorch it is a backend written in Python, "pretended"; to the code under
test it is "cuda". It refuses to mix devices, to make NumPy arrays of its tensors, and generators of another device; it
has random numbers of its own; and it knows which calls wait for a GPU. It knows nothing of streams, speed, memory,
rounding, or autocast.
"""
import contextlib
from types import SimpleNamespace
from unittest import mock

from learngene import vit_checks  # before timm and torchvision

import accelerate  # noqa: F401, everything that looks at torch.Generator when it is imported
import pytest
import timm  # noqa: F401
import torch
import torch._dynamo
import torchvision  # noqa: F401
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils import pin_memory

CUDA, aten = torch.device("cuda", 0), torch.ops.aten
INDEXING = {  # take indices from the CPU, too
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
WAITING = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.nonzero.default, aten.masked_select.default,
    aten.bincount.default, aten.equal.default, aten._unique2.default, aten.unique_dim.default,
    aten.repeat_interleave.Tensor}

PINNING = {aten.is_pinned.default, aten._pin_memory.default}


class Module(backend_registration._DummyBackendModule):
    "What PyTorch asks of a backend is what it asks of `torch.cuda`."
    def __getattr__(self, name):
        return getattr(torch.cuda, name)


backend_registration._setup_privateuseone_for_python_backend("pretended", Module())
BACKEND, CPU = torch.device("pretended", 0), torch.device("cpu")


class Pretended(torch.Tensor):
    "A tensor on the GPU, around one on the CPU."
    device, is_cuda = property(lambda self: CUDA), property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=BACKEND)

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
    "Sees every operation."
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})


class _Calls(TorchFunctionMode):
    "Sees what has to be seen before PyTorch's own C++ takes a call to pieces."
    def __torch_function__(self, call, types, args=(), kwargs=None):
        kwargs, on_gpu = kwargs or {}, bool(args) and isinstance(args[0], Pretended)
        if call is torch.device:
            return call(*args, **kwargs)
        if on_gpu and call is torch.Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. "
                            "Use Tensor.cpu() to copy the tensor to host memory first.")
        if on_gpu and call is torch.Tensor.tolist:
            _wait()
            return args[0].inner.tolist()
        if on_gpu and call in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(map(_as_index, index)), *args[2:])
        if call is torch.Tensor.cuda:
            call, args = torch.Tensor.to, (args[0], CUDA)
        makes_tensor = call in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor)
        if makes_tensor and _to_backend(kwargs.get("device")) == BACKEND:
            _wait()
        args, kwargs = map(_to_backend, args), {name: _to_backend(value) for name, value in kwargs.items()}
        if kwargs.get("generator") is None:
            return call(*args, **kwargs)
        with GPU.using(kwargs["generator"]):
            return call(*args, **kwargs)


def _as_index(i):
    return torch.tensor(i, dtype=torch.long) if isinstance(i, (list, range)) else i


def _to_backend(x):
    "The backend, where `x` names the GPU; else `x`."
    if isinstance(x, str):
        return BACKEND if x in ("cuda", "cuda:0") else x
    return BACKEND if isinstance(x, torch.device) and x.type == "cuda" else x


def _run(op, args, kwargs):
    "Run one operation on the CPU, or refuse it."
    tensors = [*_tensors_in(args), *_tensors_in(kwargs.values())]
    wrappers = {id(t.inner): t for t in tensors if isinstance(t, Pretended)}
    device = kwargs.get("device") and torch.device(kwargs["device"])
    elsewhere = device == BACKEND or GPU.generator is not None or op in PINNING or kwargs.get("pin_memory")
    if not wrappers and not elsewhere:
        return op(*args, **kwargs)  # of the CPU alone
    moves = op in (aten._to_copy.default, aten.copy_.default)
    if device:
        to_gpu = device == BACKEND
    else:
        to_gpu = isinstance(args[0], Pretended) if moves or op in INDEXING else bool(wrappers)
    _refuse(op, tensors, wrappers, moves, to_gpu)
    if op is aten.is_pinned.default:
        return True
    if op is aten._pin_memory.default:
        return args[0]
    if wrappers and op in WAITING or _copies(op, args, kwargs, moves, to_gpu):
        _wait()
    args, kwargs = _map(_to_cpu, args), {name: _map(_to_cpu, x) for name, x in kwargs.items() if name != "pin_memory"}
    draws = to_gpu and torch.Tag.nondeterministic_seeded in op.tags and GPU.generator is None
    with GPU.random_numbers() if draws else contextlib.nullcontext():
        out = op(*args, **kwargs)
    return _map(lambda x: _wrap(x, wrappers), out) if to_gpu else out


def _tensors_in(arguments):
    "The tensors among an operation's arguments; PyTorch nests no deeper than in lists."
    for x in arguments:
        yield from (t for t in (x if isinstance(x, (list, tuple)) else (x,)) if isinstance(t, torch.Tensor))


def _map(function, x):
    "Apply a function to what lists and tuples hold."
    return type(x)(_map(function, item) for item in x) if isinstance(x, (list, tuple)) else function(x)


def _to_cpu(x):
    "What the CPU computes with in place of `x`."
    if isinstance(x, Pretended):
        return x.inner
    return CPU if isinstance(x, torch.device) and x == BACKEND else x


def _wrap(x, wrappers):
    "The tensor on the GPU around `x`, an old one where there is one."
    if id(x) in wrappers:
        return wrappers[id(x)]
    return Pretended(x) if isinstance(x, torch.Tensor) else x


def _refuse(op, tensors, wrappers, moves, to_gpu):
    "RuntimeError where a real GPU raises one."
    if op in INDEXING and not to_gpu and wrappers:
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if wrappers and not moves and op not in INDEXING:
        together = op in (aten.cat.default, aten.stack.default)  # elsewhere a single number may come from the CPU
        if any(not isinstance(t, Pretended) and (t.dim() or together) for t in tensors):
            raise RuntimeError("Expected all tensors to be on the same device, "
                               f"but found at least two devices, cuda:0 and cpu! ({op})")
    if GPU.generator is not None and (id(GPU.generator) in GPU.generators) != to_gpu:
        device = "cuda" if to_gpu else "cpu"
        raise RuntimeError(f"Expected a '{device}' device type for generator but found the other ({op})")


def _copies(op, args, kwargs, moves, to_gpu):
    "Whether the CPU waits for a copy, or to know how many indices there are."
    if op is aten._to_copy.default:
        return isinstance(args[0], Pretended) != to_gpu and not kwargs.get("non_blocking")
    if moves:
        non_blocking = (args[2:] or (kwargs.get("non_blocking"),))[0]
        return isinstance(args[1], Pretended) != to_gpu and not non_blocking
    if op in INDEXING and to_gpu:
        counts = op is aten.index.Tensor or args[2].numel() > 1  # a single number is filled in without counting
        indices = [i for i in args[1] if i is not None]
        return counts and any(i.dtype == torch.bool or not isinstance(i, Pretended) for i in indices)
    return False


def _wait():
    if GPU.sync_debug == "error":
        raise RuntimeError("called a synchronizing CUDA operation")


class _GPU:
    "The state of the GPU."
    def __init__(self):
        self.sync_debug = "default"
        self.generator = None  # the one that the current call names
        self.generators = {}  # of the GPU, by id
        self.state = torch.Generator().manual_seed(0)

    @contextlib.contextmanager
    def using(self, generator):
        "Remember the generator that a call names, for the time of the call."
        before, self.generator = self.generator, generator if generator is not None else self.generator
        try:
            yield
        finally:
            self.generator = before

    @contextlib.contextmanager
    def random_numbers(self):
        "Draw the GPU's random numbers in place of the CPU's."
        default = torch.random.default_generator
        before = default.get_state()
        default.set_state(self.state.get_state())
        try:
            yield
        finally:
            self.state.set_state(default.get_state())
            default.set_state(before)

    def module(self):
        "What stands in place of the functions of `torch.cuda`."
        def nothing(*args, **kwargs):
            return None
        return dict(
            is_available=lambda: True, is_initialized=lambda: True, _lazy_init=nothing, device_count=lambda: 1,
            current_device=lambda: 0, set_device=nothing, get_device_name=lambda device=None: "pretended GPU",
            get_device_capability=lambda device=None: (9, 0),
            get_device_properties=lambda device=None: SimpleNamespace(total_memory=2**37),
            is_bf16_supported=lambda *args, **kwargs: True, mem_get_info=lambda device=None: (2**37, 2**37),
            max_memory_allocated=lambda device=None: 2**20, reset_peak_memory_stats=nothing, empty_cache=nothing,
            synchronize=nothing, set_sync_debug_mode=lambda mode: setattr(self, "sync_debug", mode), Stream=_Stream,
            current_stream=_Stream, stream=contextlib.nullcontext, manual_seed=self.state.manual_seed,
            manual_seed_all=self.state.manual_seed, get_rng_state=lambda device=None: self.state.get_state(),
            set_rng_state=lambda state, device=None: self.state.set_state(state),
            get_rng_state_all=lambda: [self.state.get_state()],
            set_rng_state_all=lambda states: self.state.set_state(states[0]))


class _Stream:
    "A stream on which everything is done at once."
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass

    wait_event = wait_stream

    def record_event(self):
        return self


class _GeneratorType(type):
    def __instancecheck__(cls, x):
        return isinstance(x, torch._C.Generator)


class _Generator(metaclass=_GeneratorType):
    "In place of `torch.Generator`: remembers which generators are the GPU's."
    def __new__(cls, device="cpu"):
        generator = torch._C.Generator()
        if torch.device(device).type == "cuda":
            GPU.generators[id(generator)] = generator
        return generator


GPU = _GPU()


@contextlib.contextmanager
def pretended():
    "Within it there is a GPU."
    with contextlib.ExitStack() as stack:
        for name, value in GPU.module().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        # tensors of inference mode cannot be wrapped
        stack.enter_context(mock.patch.object(torch, "inference_mode", torch.no_grad))
        stack.enter_context(mock.patch.object(Pretended, "record_stream", lambda tensor, stream: None))
        stack.enter_context(mock.patch.object(vit_checks, "PLAIN", (*vit_checks.PLAIN, Pretended)))
        stack.enter_context(mock.patch.object(pin_memory, "pin_memory", lambda data, device=None: data))
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        yield


_session = contextlib.ExitStack()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():  # before marks ask for a GPU
    _session.enter_context(pretended())


def pytest_unconfigure(config):
    _session.close()
