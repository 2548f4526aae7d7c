# Language, warnings, sanitizers and hardening: everything that every object of the project is built with.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
# The release build keeps symbols: a core dump from a device must be readable.
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O3 -g")

set(EW_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread")
option(EW_WERROR "Treat warnings as errors" OFF)
option(EW_FUZZ "Build the libFuzzer harnesses (clang only)" OFF)
option(EW_ANALYZE "Compile with gcc -fanalyzer" OFF)

add_library(ew_flags INTERFACE)
target_compile_options(ew_flags INTERFACE
    -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith
    -Wwrite-strings -Wformat=2 -Wconversion -Wdouble-promotion -Wcast-qual -Wundef
    -Wimplicit-fallthrough -fno-common
    # FMA contraction differs between compilers and standards: say it once for all (kernels override per file).
    -ffp-contract=off)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    # snprintf into a bounded buffer is meant to truncate; sanitized code confuses the uninitialised-variable check.
    target_compile_options(ew_flags INTERFACE -Wno-format-truncation)
    if(EW_SANITIZE)
        target_compile_options(ew_flags INTERFACE -Wno-maybe-uninitialized)
    endif()
endif()
target_compile_definitions(ew_flags INTERFACE EW_VERSION="${PROJECT_VERSION}")
# Never only a warning: such code is broken.
target_compile_options(ew_flags INTERFACE -Werror=implicit-function-declaration -Werror=int-conversion
    -Werror=incompatible-pointer-types)
if(EW_WERROR)
    target_compile_options(ew_flags INTERFACE -Werror)
endif()
if(EW_SANITIZE)
    target_compile_options(ew_flags INTERFACE -fsanitize=${EW_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(ew_flags INTERFACE -fsanitize=${EW_SANITIZE})
    if(EW_SANITIZE MATCHES "undefined")
        target_compile_options(ew_flags INTERFACE -fno-sanitize-recover=undefined)
    endif()
endif()
if(EW_FUZZ)
    target_compile_options(ew_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(EW_ANALYZE)
    target_compile_options(ew_flags INTERFACE -fanalyzer)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo" AND NOT EW_SANITIZE)
    target_compile_options(ew_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong)
    target_link_options(ew_flags INTERFACE -Wl,-z,relro,-z,now)
endif()
include(CheckPIESupported)
check_pie_supported(LANGUAGES C)
