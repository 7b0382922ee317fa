# Types of transformers are not read: the package names every model it has, and pyright would read
# them all, for minutes. What is taken from it is `Any`.
from typing import Any

def __getattr__(name: str) -> Any: ...
