# SPDX-License-Identifier: Apache-2.0
"""Weight: C++ that does nothing but take time to compile, so that the sample can be as heavy as a test needs it."""

# Of 2,760 actions of TensorFlow Serving 1.9.1, 2,434 are done again for another CPU level: one in eight is a host tool's, which
# is one for seven of the others.
_HOST_SHARE = 7

def weight(name, most, template, tool_source):
    """Makes a library of as many heavy files as --define=weight=N says, and a host tool of a seventh as many.

    Args:
      name: of the library.
      most: the greatest N.
      template: the text of a heavy file; @NAME@ in it becomes the file's name.
      tool_source: the host tool's own source.
    """
    heavy = ["target_%d" % number for number in range(most)]
    host = ["host_%d" % number for number in range(-(-most // _HOST_SHARE))]
    for file in heavy + host:
        native.genrule(
            name = file,
            srcs = [template],
            outs = [file + ".cc"],
            cmd = "sed 's/@NAME@/%s/g' $< > $@" % file,
        )
    for number in range(1, most + 1):
        native.config_setting(name = "%d" % number, define_values = {"weight": "%d" % number})

    native.cc_library(name = name + "_host", srcs = _by_weight(host, most, _HOST_SHARE))
    native.cc_binary(name = name + "_tool", srcs = [tool_source], deps = [":" + name + "_host"])

    # As with generated protocol code: what the target compiles is made by a tool that was compiled before, for the host.
    native.genrule(
        name = name + "_list",
        outs = [name + "_list.cc"],
        cmd = "$(location :%s_tool) > $@" % name,
        tools = [":%s_tool" % name],
    )
    native.cc_library(name = name, srcs = _by_weight(heavy, most, 1, always = [":%s_list" % name]))

def _by_weight(files, most, share, always = []):
    """Selects a part of the files: one for each `share` of the weight, rounded up."""
    chosen = {
        ":%d" % number: always + [":" + file for file in files[:-(-number // share)]]
        for number in range(1, most + 1)
    }
    chosen["//conditions:default"] = []
    return select(chosen)
