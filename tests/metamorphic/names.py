"""Which names in an HF file its author chose, and which transformers or torch reads."""

import ast
import builtins
from collections.abc import Iterator

# Attributes that transformers reads from the modules: the attention interface, the
# rope update, gradient checkpointing, weight initialisation.
API_ATTRIBUTES = frozenset(
    """
    attention_scaling bias config gradient_checkpointing indexer inv_freq is_causal
    layer_idx max_seq_len_cached num_key_value_groups original_inv_freq
    original_max_seq_len padding_idx rope_type running_mean running_var sinks training
    weight
    """.split()
)
# Arguments that callers outside the file pass by keyword: users of the model, generate,
# the attention interface (both ways) and the rope functions.
API_ARGUMENTS = frozenset(
    """
    args attention_mask cache_position device dropout inputs_embeds input_ids kwargs
    labels layer_past layer_type logits_to_keep output_attentions output_hidden_states
    past_key_values position_ids return_dict s_aux scaling self seq_len sliding_window
    softcap token_type_ids use_cache
    """.split()
)
API_METHODS = frozenset(
    """
    compute_default_rope_parameters extra_repr forward get_input_embeddings
    get_output_embeddings set_input_embeddings set_output_embeddings
    """.split()
)


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def module_names(tree: ast.Module) -> set[str]:
    """Names bound at module level: imports, definitions, assignments."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {
                (alias.asname or alias.name).split(".")[0] for alias in node.names
            }
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        else:
            found |= stored(node)
    return found


def stored(node: ast.AST) -> set[str]:
    """Plain names assigned anywhere below `node`."""
    return {
        n.id
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def author_attributes(tree: ast.Module) -> list[str]:
    """Attributes assigned on self, in order of first assignment, less the API's."""
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and node.attr not in API_ATTRIBUTES
        ):
            found[node.attr] = None
    return list(found)


def author_methods(tree: ast.Module) -> list[str]:
    """Methods of plain modules that only the file itself calls."""
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and rooted_at_self(node)
    }
    return [
        method.name
        for cls in classes(tree)
        for method in cls.body
        if isinstance(method, ast.FunctionDef)
        and method.name in called
        and method.name not in API_METHODS
        and not method.name.startswith("__")
    ]


def author_locals(tree: ast.Module) -> list[str]:
    """Parameters and locals of all functions, in order, less the API's."""
    taken = module_names(tree) | set(dir(builtins)) | API_ARGUMENTS
    found: dict[str, None] = {}
    for function in functions(tree):
        for node in ast.walk(function):
            if isinstance(node, ast.arg):
                found[node.arg] = None
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found[node.id] = None
    return [name for name in found if name not in taken]


def author_functions(tree: ast.Module) -> list[str]:
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def rooted_at_self(node: ast.Attribute) -> bool:
    """`self.a.b`, but not through `self.config`, whose fields are the config's."""
    value: ast.expr = node.value
    while isinstance(value, ast.Attribute):
        if value.attr == "config":
            return False
        value = value.value
    return isinstance(value, ast.Name) and value.id == "self"
