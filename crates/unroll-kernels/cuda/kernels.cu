// All kernels: one image.

#include "recurrent.cu"

#include "attention.cu"

#include "floors.cu"
