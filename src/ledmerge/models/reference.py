"""What a user writes for a model: a text, or its parts where a path holds '+' or '@'."""

from typing import Any


class ModelReference(str):
    """A model by its parts, with an adapter on it if `lora` is given; as a text, `path+lora`.

    Attributes:
        path: a folder with weights, or a hub id without revision.
        revision: of a hub id.
        lora: the adapter's folder, or its hub id.
        lora_revision: of the adapter's hub id.
    """

    __slots__ = ("lora", "lora_revision", "path", "revision")

    def __new__(
        cls,
        path: str,
        revision: str | None = None,
        lora: str | None = None,
        lora_revision: str | None = None,
    ) -> "ModelReference":
        """See the class."""
        parts = [(path, revision), (lora, lora_revision)]
        self = super().__new__(cls, "+".join(f"{p}@{r}" if r else p for p, r in parts if p))
        self.path, self.revision = path, revision
        self.lora, self.lora_revision = lora, lora_revision
        return self

    def as_recipe(self) -> dict[str, Any]:
        """The object that a recipe holds."""
        lora: Any = self.lora
        if self.lora_revision:
            lora = {"path": self.lora, "revision": self.lora_revision}
        found = {"path": self.path, "revision": self.revision, "lora": lora}
        return {key: value for key, value in found.items() if value is not None}


def as_recipe(reference: str) -> str | dict[str, Any]:
    """A reference in the form that a recipe has."""
    return reference.as_recipe() if isinstance(reference, ModelReference) else reference
