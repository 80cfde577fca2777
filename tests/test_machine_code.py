"""scripts/machine_code.py: instructions are found in what NVIDIA's driver keeps, and counted."""

import struct

import machine_code
import pytest

LISTING = """
        /*0000*/                   S2R R0, SR_CTAID.Y ;
        /*0010*/               @P0 LDG.E.128.STRONG.SM R20, [R2] ;
        /*0020*/              @!P0 LDG.E.128.STRONG.SM R24, [R4] ;
        /*0030*/              @UP1 STL.64 [R1], R2 ;
        /*0040*/                   FFMA.FTZ R41, R26.reuse, R60, R186 ;
"""


def program(kinds, code):
    """As the driver's, with sections of these kinds; the code behind the table."""
    offset = 64 + 32 * len(kinds)
    sections = b"".join(struct.pack("<8I", kind, len(code), offset, *[0] * 5) for kind in kinds)
    return b"NVDANVVM" + b"NVuc".ljust(64, b"\0") + sections + code


def test_the_section_of_the_code_is_found():
    code = bytes(range(32))
    assert machine_code.code_of(program([8, 69, 1], code)) == code


@pytest.mark.parametrize("other", [program([8, 69], b"\0" * 16), b"NVDANVVM", b""])
def test_without_code_it_says_so(other):
    with pytest.raises(ValueError, match="no machine code of NVIDIA's"):
        machine_code.code_of(other)


def test_what_another_driver_keeps_is_told_apart():
    with pytest.raises(ValueError, match="no machine code of NVIDIA's"):
        machine_code.program_of(b"llvmpipe")


def test_counts():
    assert machine_code.summary(LISTING) == "5: 1 FFMA.FTZ, 2 LDG.E.128, 1 STL.64"
