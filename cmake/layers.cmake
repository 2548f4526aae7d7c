# ew_module(PATH LAYER n [DEPS module…] [LIBS target…] [GNU file…])
#
# A module is a directory of .c files built into the static library ew_<last path part>. DEPS is the whole list of
# modules it may use. Two checks run at configure time: a dependency must lie in a lower layer, and every
# #include "module/…" of the module's files must name the module itself or one of DEPS.
# Files named *_avx2.c, *_avx512.c, *_neon.c, *_dotprod_neon.c, *_i8mm_neon.c get the flags of their instruction set and are left
# out elsewhere; GNU files see _GNU_SOURCE.
function(ew_module path)
    cmake_parse_arguments(M "" "LAYER" "DEPS;LIBS;GNU" ${ARGN})
    get_filename_component(name "${path}" NAME)
    set_property(GLOBAL PROPERTY ew_layer_${name} ${M_LAYER})
    set_property(GLOBAL APPEND PROPERTY ew_modules ${name})
    foreach(dep IN LISTS M_DEPS)
        get_property(dep_layer GLOBAL PROPERTY ew_layer_${dep})
        if("${dep_layer}" STREQUAL "")
            message(FATAL_ERROR "module ${name}: dependency '${dep}' is not declared before it in cmake/modules.cmake")
        endif()
        if(NOT dep_layer LESS M_LAYER)
            message(FATAL_ERROR "module ${name} (layer ${M_LAYER}) may not use ${dep} (layer ${dep_layer}): arrows only go down")
        endif()
    endforeach()

    file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${path}/*.c")
    file(GLOB headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${path}/*.h")
    list(FILTER sources EXCLUDE REGEX "/main\\.c$")
    if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        list(FILTER sources EXCLUDE REGEX "_avx(2|512)\\.c$")
    endif()
    if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
        list(FILTER sources EXCLUDE REGEX "_neon\\.c$")
    endif()

    ew_check_includes(${name} "${M_DEPS}" ${sources} ${headers})

    string(REGEX MATCH "^[^/]+" root "${path}")
    list(TRANSFORM M_DEPS PREPEND "ew_" OUTPUT_VARIABLE dep_targets)
    if(sources)
        add_library(ew_${name} STATIC ${sources})
        set(scope PUBLIC)
        target_link_libraries(ew_${name} PRIVATE ew_flags)
    else()
        add_library(ew_${name} INTERFACE)
        set(scope INTERFACE)
    endif()
    # -iquote and not -I: common/sys must not stand before the system's <sys/socket.h>.
    target_compile_options(ew_${name} ${scope} "SHELL:-iquote ${PROJECT_SOURCE_DIR}/common")
    if(NOT root STREQUAL "common")
        target_compile_options(ew_${name} ${scope} "SHELL:-iquote ${PROJECT_SOURCE_DIR}/${root}")
    endif()
    target_link_libraries(ew_${name} ${scope} ${dep_targets} ${M_LIBS})

    foreach(source IN LISTS sources)
        if(source MATCHES "_avx2\\.c$")
            set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS
                "-mavx2;-mfma;-mf16c;-O3;-fno-math-errno;-fno-trapping-math")
        elseif(source MATCHES "_avx512\\.c$")
            set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS
                "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni;-mfma;-mf16c;-O3;-fno-math-errno;-fno-trapping-math")
        elseif(source MATCHES "_i8mm_neon\\.c$")
            set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS
                "-march=armv8.2-a+dotprod+i8mm;-O3;-fno-math-errno;-fno-trapping-math")
        elseif(source MATCHES "_dotprod_neon\\.c$")
            set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS
                "-march=armv8.2-a+dotprod;-O3;-fno-math-errno;-fno-trapping-math")
        elseif(source MATCHES "_neon\\.c$")
            set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "-O3;-fno-math-errno;-fno-trapping-math")
        endif()
    endforeach()
    foreach(file IN LISTS M_GNU)
        set_source_files_properties("${PROJECT_SOURCE_DIR}/${path}/${file}" PROPERTIES COMPILE_DEFINITIONS _GNU_SOURCE)
    endforeach()
endfunction()

function(ew_check_includes name deps)
    foreach(file IN LISTS ARGN)
        set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
        file(STRINGS "${file}" lines REGEX "^[ \t]*#[ \t]*include[ \t]+\"[a-z_0-9]+/")
        foreach(line IN LISTS lines)
            string(REGEX REPLACE ".*\"([a-z_0-9]+)/.*" "\\1" used "${line}")
            if(NOT used STREQUAL name AND NOT used IN_LIST deps)
                file(RELATIVE_PATH short "${PROJECT_SOURCE_DIR}" "${file}")
                # An error in every preset; a warning elsewhere, so that one module at work does not stop the others.
                set(severity WARNING)
                if(EW_WERROR)
                    set(severity FATAL_ERROR)
                endif()
                message(${severity} "${short} includes '${used}/…', which is not in the dependency list of module "
                                    "'${name}' (cmake/modules.cmake). Change the list with a line of reason, or the file.")
            endif()
        endforeach()
    endforeach()
endfunction()
