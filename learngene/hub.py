"The Hugging Face hub, where it can be reached: without a network, errors come in seconds and name the local way."
import os
import socket
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

from huggingface_hub import constants

TIMEOUT = 3  # seconds


def is_reachable() -> bool:
    "Whether the hub answers within seconds; behind a proxy it is taken for granted."
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    place = urlsplit(constants.ENDPOINT)
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname, port), timeout=TIMEOUT).close()
        return True
    except OSError:
        return False


@contextmanager
def without_retries():
    """Read from the hub's cache alone while the hub cannot be reached.

    Its client, and `datasets` if it is imported, would retry for a minute, file by file.
    """
    settings = [constants, *(sys.modules[name] for name in ("datasets.config",) if name in sys.modules)]
    before = [module.HF_HUB_OFFLINE for module in settings]
    offline = any(before) or not is_reachable()
    for module in settings:
        module.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        for module, value in zip(settings, before):
            module.HF_HUB_OFFLINE = value
