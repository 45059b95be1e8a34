// SPDX-License-Identifier: Apache-2.0
// What --version prints. No git revision is looked up: the same sources give the same binary wherever they lie.
#pragma once
#define TF_STRING_OF(x) #x
#define TF_VERSION_STRING(major, minor, patch) TF_STRING_OF(major) "." TF_STRING_OF(minor) "." TF_STRING_OF(patch)

#define TF_LIBRARY_VERSION TF_VERSION_STRING(2, 19, 1)
#define TF_MODELSERVER_VERSION TF_LIBRARY_VERSION "-rc0+dev.sha.no_git"
