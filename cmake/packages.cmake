# The libraries of Debian 12 that the product links; `scripts/setup` installs them. Versions are those of bookworm.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
# PkgConfig::<name> for each pair name=pkg-config file.
foreach(pair IN ITEMS zmq=libzmq protobuf-c=libprotobuf-c ssl=libssl crypto=libcrypto sqlite=sqlite3 jansson=jansson
                      cyaml=libcyaml yaml=yaml-0.1 pcre2=libpcre2-8 utf8proc=libutf8proc xxhash=libxxhash)
    string(REGEX MATCH "^([^=]+)=(.+)$" _ "${pair}")
    pkg_check_modules(${CMAKE_MATCH_1} REQUIRED QUIET IMPORTED_TARGET GLOBAL ${CMAKE_MATCH_2})
endforeach()
