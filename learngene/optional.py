"Packages that only some functions need, and the extra that installs each."
import importlib

EXTRAS = dict(
    notebooks=("papermill", "nbformat", "nbclient", "nbconvert", "ipykernel", "jupyter_client", "pandas", "jinja2"),
    data=("pyarrow",),
    hub=("datasets",),
    onnx=("onnx", "onnxruntime", "onnxscript"),
    cluster=("distributed", "submitit"),
)


def install_hint(
    package: str,  # as it is imported
) -> str:  # a command
    "Say how to install a package, by learngene's extra where it has one."
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    return f"pip install 'learngene[{extra}]'" if extra else f"pip install {package}"


def require(
    package: str,  # as it is imported
    purpose: str,  # what needs it, the beginning of the error
):  # the module
    "Import a package of an extra; ImportError that says how to install it."
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("", package):
            raise  # it is installed, and lacks something itself
        raise ImportError(f"{purpose} needs {package}: {install_hint(package)}.", name=package) from None
