/* Integer products: SDOT and SMMLA (FEAT_I8MM). */
#define Q_NAME ew__qkern_neon_i8mm
#define Q_DOT 1
#define Q_MM 1
#include "kern/qmul_neon.h"
