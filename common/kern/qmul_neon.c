/* Integer products: ARMv8.0 multiply-add and pairwise sums. */
#define Q_NAME ew__qkern_neon
#define Q_DOT 0
#define Q_MM 0
#include "kern/qmul_neon.h"
