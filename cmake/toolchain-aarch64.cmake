# aarch64 from a Debian machine of another architecture: Debian's cross compiler, the libraries of scripts/sysroot-arm64
# and qemu's user emulation, under which ctest runs what was built. Use: cmake --preset arm64.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

if(NOT EW_SYSROOT) # the same place as scripts/sysroot-arm64 --where, asked once
    execute_process(COMMAND "${CMAKE_CURRENT_LIST_DIR}/../scripts/sysroot-arm64" --where
                    OUTPUT_VARIABLE EW_SYSROOT OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    set(EW_SYSROOT "${EW_SYSROOT}" CACHE PATH "arm64 libraries and headers")
endif()
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EW_SYSROOT)
if(NOT EXISTS "${EW_SYSROOT}/.edgewise-sysroot")
    message(FATAL_ERROR "no arm64 libraries in ${EW_SYSROOT}: run scripts/sysroot-arm64")
endif()
set(CMAKE_SYSROOT "${EW_SYSROOT}")

# Programs (protoc-c, pkg-config) are this machine's, all else comes from the sysroot.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_DIR} "")
set(ENV{PKG_CONFIG_PATH} "")
set(ENV{PKG_CONFIG_LIBDIR} "${EW_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${EW_SYSROOT}/usr/share/pkgconfig")
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${EW_SYSROOT}")

# QEMU_CPU in the environment chooses the processor, e.g. QEMU_CPU=cortex-a72 ctest --preset arm64.
find_program(EW_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
if(EW_QEMU)
    set(CMAKE_CROSSCOMPILING_EMULATOR "${EW_QEMU};-L;${EW_SYSROOT}")
endif()
