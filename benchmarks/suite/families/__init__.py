"""The shapes, a module a family: TITLE, NOTE (what its rates count; may be empty) and CASES."""

from suite.families import (
    attention,
    compiled,
    convolution,
    copies,
    elementwise,
    host,
    images,
    indexing,
    linalg,
    optimizers,
    products,
    randomness,
    recurrent,
    reductions,
)

FAMILIES = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        products,
        attention,
        convolution,
        elementwise,
        copies,
        reductions,
        indexing,
        randomness,
        images,
        recurrent,
        optimizers,
        linalg,
        compiled,
        host,
    )
}
