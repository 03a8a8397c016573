"""Makes UnrollSans.ttf: the part of Liberation Sans that plots need, under another name.

    pip install fonttools
    python subset.py LiberationSans-Regular.ttf UnrollSans.ttf

The font's licence reserves the name Liberation for the whole font.
"""

import sys

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

RANGES = [(0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x3FF), (0x2010, 0x2026), (0x2070, 0x208E)]
SYMBOLS = "′″€→∂∆√∞∫≈≠≤≥−∑∏·"

source, target = sys.argv[1:]
font = TTFont(source, recalcTimestamp=False)
options = Options()
options.hinting = False
options.layout_features = []
options.legacy_kern = True
options.name_IDs = [0, 13, 14]
subsetter = Subsetter(options)
subsetter.populate(
    unicodes=[c for first, last in RANGES for c in range(first, last + 1)] + [ord(c) for c in SYMBOLS]
)
subsetter.subset(font)
for name, text in {1: "Unroll Sans", 2: "Regular", 3: "Unroll Sans 1", 4: "Unroll Sans", 6: "UnrollSans"}.items():
    font["name"].setName(text, name, 3, 1, 0x409)
font.save(target)
