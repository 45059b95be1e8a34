# SPDX-License-Identifier: Apache-2.0
"""What --config=mkl switches."""

def if_mkl(yes, no = []):
    return select({
        "//third_party/mkl:build_with_mkl": yes,
        "//conditions:default": no,
    })
