// What every header that holds a formula needs: one spelling for "compiles for host and device".
#pragma once

#ifdef __CUDACC__
#define DP_HD __host__ __device__ __forceinline__
#else
#define DP_HD inline
#endif
