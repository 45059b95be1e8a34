// SPDX-License-Identifier: Apache-2.0
// clang includes cuRAND's header of this name into all device code. Nothing here needs what is in it.
