"Tensors on their way to a device, without anyone waiting for them."
from functools import cache

import torch


def send(tensor, device):
    "Copy a tensor from the CPU to `device` without waiting for the copy."
    if torch.device(device).type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def prefetch(batches, device):
    """Yield the same batches, each made on a GPU while the one before it is in use.

    A batch is made on a stream of its own, so that its many small kernels do not hold up a training step's large
    ones; the step waits for its own batch alone.
    """
    side, main, ready = _side_stream(device), torch.cuda.current_stream(device), None
    side.wait_stream(main)
    while True:
        with torch.cuda.stream(side):
            batch = next(batches, None)
            following = None if batch is None else (batch, side.record_event())
        if ready:
            batch, event = ready
            main.wait_event(event)
            for tensor in batch:
                tensor.record_stream(main)  # its memory is not given to a later batch before the step is done
            yield batch
        ready = following
        if following is None:
            return


@cache
def _side_stream(device):
    "Return one stream for all runs, because memory belongs to the stream that asked."
    return torch.cuda.Stream(device)
