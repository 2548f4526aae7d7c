# proto/edgewise.proto becomes C at build time. Generated code is compiled without warnings or analysis, and only
# common/wire sees its headers.
set(EW_PROTO "${PROJECT_SOURCE_DIR}/proto/edgewise.proto")
get_target_property(wire_type ew_wire TYPE)
if(EXISTS "${EW_PROTO}" AND wire_type STREQUAL "STATIC_LIBRARY")
    find_program(EW_PROTOC_C protoc-c REQUIRED)
    set(gen "${PROJECT_BINARY_DIR}/proto")
    file(MAKE_DIRECTORY "${gen}")
    add_custom_command(
        OUTPUT "${gen}/edgewise.pb-c.c" "${gen}/edgewise.pb-c.h"
        COMMAND "${EW_PROTOC_C}" --c_out=${gen} --proto_path=${PROJECT_SOURCE_DIR}/proto edgewise.proto
        DEPENDS "${EW_PROTO}" VERBATIM)
    add_library(ew_wire_pb OBJECT "${gen}/edgewise.pb-c.c")
    set_target_properties(ew_wire_pb PROPERTIES C_CLANG_TIDY "")
    target_compile_options(ew_wire_pb PRIVATE -w)
    if(EW_SANITIZE)
        target_compile_options(ew_wire_pb PRIVATE -fsanitize=${EW_SANITIZE} -fno-omit-frame-pointer)
    endif()
    target_link_libraries(ew_wire_pb PRIVATE PkgConfig::protobuf-c)
    target_sources(ew_wire PRIVATE $<TARGET_OBJECTS:ew_wire_pb>)
    target_include_directories(ew_wire SYSTEM PRIVATE "${gen}")
    add_dependencies(ew_wire ew_wire_pb)
endif()
