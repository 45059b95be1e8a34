# SPDX-License-Identifier: Apache-2.0
"""C++ from .proto files, by Debian's protoc."""

def tf_proto_library(name, deps = [], grpc = False):
    """Makes the library NAME of NAME.proto.

    Args:
      name: the library; its source is the file of this name.
      deps: libraries of the same kind, for the files that it imports.
      grpc: whether to generate a gRPC service too.
    """
    source = name + ".proto"
    outputs = [name + ".pb.h", name + ".pb.cc"]
    command = "protoc -I. --cpp_out=$(GENDIR)"
    if grpc:
        outputs += [name + ".grpc.pb.h", name + ".grpc.pb.cc"]
        command += " --plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin) --grpc_out=$(GENDIR)"

    # The file and all that it imports, at any depth.
    native.filegroup(
        name = name + "_sources",
        srcs = [source] + [dep + "_sources" for dep in deps],
    )
    native.genrule(
        name = name + "_generate",
        srcs = [":" + name + "_sources"],
        outs = outputs,
        cmd = command + " " + native.package_name() + "/" + source,
        message = "Generating C++ of",
    )
    native.cc_library(
        name = name,
        srcs = [output for output in outputs if output.endswith(".cc")],
        hdrs = [output for output in outputs if output.endswith(".h")],
        deps = deps + ["//third_party/debian:grpc++" if grpc else "//third_party/debian:protobuf"],
    )
