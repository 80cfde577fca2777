"""One sample of every third operator of torch's database, compiled against eager; `make compiled` takes all."""

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from compiled.operators import EXPECTED, judge, name_of

FLOATS = [info for info in op_db if torch.float32 in info.dtypes][::3]


@pytest.mark.parametrize("info", FLOATS, ids=name_of)
def test_as_eager(info):
    if name_of(info) in EXPECTED:
        pytest.skip(EXPECTED[name_of(info)])
    assert judge(info, torch.float32, dynamic=False, limit=1) == ""
