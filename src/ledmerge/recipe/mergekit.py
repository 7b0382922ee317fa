"""What a recipe written for mergekit 0.1.5 may say that has no meaning here."""

PARAMETERS = {
    "arcee_fusion": "",
    "breadcrumbs": "weight density gamma normalize rescale lambda",
    "breadcrumbs_ties": "weight density gamma normalize rescale lambda",
    "dare_linear": "weight density normalize rescale lambda",
    "dare_ties": "weight density normalize rescale lambda",
    "della": "weight density epsilon normalize rescale lambda",
    "della_linear": "weight density epsilon normalize rescale lambda",
    "karcher": "max_iter tol",
    "linear": "weight normalize",
    "model_stock": "filter_wise",
    "multislerp": "weight normalize_weights eps",
    "nearswap": "t",
    "nuslerp": "weight nuslerp_flatten nuslerp_row_wise",
    "passthrough": "scale",
    "ram": "epsilon",
    "ramplus_tl": "r alpha epsilon",
    "sce": "select_topk",
    "slerp": "t",
    "task_arithmetic": "weight density normalize rescale lambda",
    "ties": "weight density normalize rescale lambda",
}
"""Its methods, and the parameters of each."""

IGNORED = frozenset(["int8_mask"])
"""Switches that only trade memory for time; they change nothing here."""

_KNOWN = {name for names in PARAMETERS.values() for name in names.split()}


def is_read_over(parameter: str, method: str) -> bool:
    """Whether mergekit takes the parameter and does nothing with it: that of another method than
    the recipe's, or one without effect.
    """
    return method in PARAMETERS and parameter in _KNOWN


def adds_base(method: str, parameters: set[str]) -> bool:
    """Whether mergekit would average the base with the models that a recipe lists without it.

    It does where the method knows no base and nothing that the base lacks is needed of each model.
    """
    return method == "karcher" or (method == "linear" and "weight" in parameters)
