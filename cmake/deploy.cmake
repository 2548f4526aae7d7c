# cmake --install: programs in bin/, units in lib/systemd/system/, users and directories for systemd, the house models.
# The units name the programs by the prefix that is given at installation, so they are written then.
install(CODE "
    set(bindir \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}\")
    file(READ \"${PROJECT_SOURCE_DIR}/deploy/hardening.conf\" hardening)
    string(STRIP \"\${hardening}\" hardening)
    foreach(unit IN ITEMS agent coordinator signer)
        set(to \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/lib/systemd/system/edgewise-\${unit}.service\")
        configure_file(\"${PROJECT_SOURCE_DIR}/deploy/edgewise-\${unit}.service.in\" \"\${to}\" @ONLY)
        message(STATUS \"Installing: \${to}\")
    endforeach()
")
install(FILES deploy/edgewise.sysusers DESTINATION lib/sysusers.d RENAME edgewise.conf)
install(FILES deploy/edgewise.tmpfiles DESTINATION lib/tmpfiles.d RENAME edgewise.conf)
if(EXISTS "${PROJECT_SOURCE_DIR}/models")
    install(DIRECTORY models/ DESTINATION ${CMAKE_INSTALL_DATADIR}/edgewise/models FILES_MATCHING PATTERN "*.gguf"
                                                                                    PATTERN "*.md" PATTERN "*.json" PATTERN "*.txt" PATTERN "*.yaml" PATTERN "*.csv")
endif()
