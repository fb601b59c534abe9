// log(1 + e^x): the time that a token takes.
#pragma once

#include "vectors.h"

namespace infer {

// Relative error below 4e-7; NaN for NaN.
inline f32x16 softplus(f32x16 x) {
    const f32x16 u = vexp(-vabs(x));
    // log(1 + u) is 2 artanh z.
    const f32x16 z = u / (2.0f + u), w = z * z;
    f32x16 p = splat(2.81746573e-01f);  // minimax polynomial of 2 artanh z / z in z^2 up to 1/9
    p = vfma(p, w, splat(2.79614188e-01f));
    p = vfma(p, w, splat(4.00248537e-01f));
    p = vfma(p, w, splat(6.66663159e-01f));
    p = vfma(p, w, splat(2.00000001e+00f));
    return vfma(p, z, vmax(splat(0.0f), x));
}

}  // namespace infer
