/* Integer products: SDOT (ARMv8.2 with FEAT_DotProd). */
#define Q_NAME ew__qkern_neon_dotprod
#define Q_DOT 1
#define Q_MM 0
#include "kern/qmul_neon.h"
