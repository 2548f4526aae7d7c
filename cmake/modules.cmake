# Every module, its layer and all that it may use. Arrows only go down; edge/ and cloud/ never see each other.
# POSIX.1-2008 is what all of the code may use; Linux extensions only in the files named after GNU.
add_compile_definitions(_POSIX_C_SOURCE=200809L)

# L0
ew_module(common/base LAYER 0 LIBS Threads::Threads m)
# L1
ew_module(common/sys LAYER 1 DEPS base LIBS PkgConfig::cyaml PkgConfig::yaml Threads::Threads m
          GNU pool.c file.c dir.c proc.c notify.c cpu.c socket.c signal.c cli.c)
ew_module(common/crypt LAYER 1 DEPS base LIBS PkgConfig::crypto GNU hash.c)
ew_module(common/text LAYER 1 DEPS base LIBS PkgConfig::jansson PkgConfig::pcre2 PkgConfig::utf8proc)
ew_module(common/domain LAYER 1 DEPS base)
# L2
ew_module(common/kern LAYER 2 DEPS base sys LIBS m)
ew_module(common/net LAYER 2 DEPS base sys crypt LIBS PkgConfig::zmq PkgConfig::ssl PkgConfig::crypto GNU io.c)
ew_module(common/db LAYER 2 DEPS base sys crypt LIBS PkgConfig::sqlite)
ew_module(common/record LAYER 2 DEPS base text domain)  # domain values as JSON
# L3
# Between the kernels and the files: format hands out the views that tensor defines.
ew_module(common/tensor LAYER 2.5 DEPS base kern)
ew_module(common/format LAYER 3 DEPS base sys text kern tensor crypt)
# utf8proc: normalizers see categories and grapheme boundaries.
ew_module(common/token LAYER 3 DEPS base sys text LIBS PkgConfig::xxhash PkgConfig::utf8proc)
ew_module(common/wire LAYER 3 DEPS base domain LIBS PkgConfig::protobuf-c)
# Plans in words: the agent and the operator's command print the same.
ew_module(common/show LAYER 3 DEPS base domain)
# sys: which dot product the processor runs. text, utf8proc: words are told by the categories of their characters.
ew_module(common/rag LAYER 3 DEPS base sys text LIBS PkgConfig::utf8proc m)
# L4
# crypt: the SHA-256 that binds adapters and plans to a model file.
ew_module(common/model LAYER 4 DEPS base sys crypt text kern tensor format token)
# token: special pieces are recognised in a template's own text only, so rendering and encoding go together.
ew_module(common/chat LAYER 4 DEPS base text token LIBS PkgConfig::jansson PkgConfig::utf8proc m GNU value.c)
ew_module(common/session LAYER 4 DEPS base sys crypt domain net wire LIBS PkgConfig::zmq)
ew_module(common/task LAYER 4 DEPS base sys crypt text domain token rag)
# L5
ew_module(common/peft LAYER 5 DEPS base sys text crypt kern tensor format model)
ew_module(common/split LAYER 5 DEPS base kern model)
# L6
ew_module(common/train LAYER 6 DEPS base sys text crypt kern tensor format token model peft task)
ew_module(common/compress LAYER 6 DEPS base sys kern tensor format model)
# L7
# probe: times whole passes of the engine and of the trainer, so it lies above both
ew_module(common/probe LAYER 7 DEPS base sys kern token domain model peft train)
ew_module(common/run LAYER 8 DEPS base sys text crypt domain record kern token rag model task peft probe train)
ew_module(common/jobs LAYER 7 DEPS base sys crypt domain db)

# L8 (9 and above here): the only layer that logs above debug, reads configuration or exits.
# task: the records that a profile holds and their JSON forms
ew_module(edge/vault LAYER 9 DEPS base sys crypt text domain db rag task)
ew_module(edge/agentd LAYER 10 DEPS base sys crypt text domain record wire session token chat model kern task peft rag
                                   split probe run show vault)
ew_module(edge/agent_cli LAYER 11 DEPS base sys crypt text domain record db rag wire session show token model task peft train run agentd vault)

ew_module(cloud/signer LAYER 9 DEPS base sys crypt text net)
ew_module(cloud/registry LAYER 9 DEPS base sys crypt text domain db wire format model compress)
# Pure: no database. kern, sys: the dry runs that size memory take an ew_exec with the device's number of threads.
ew_module(cloud/planner LAYER 9 DEPS base sys text crypt domain record kern model peft train probe)
ew_module(cloud/offload LAYER 9 DEPS base crypt domain kern model split)
ew_module(cloud/experiment LAYER 9 DEPS base sys crypt text domain task)
# The operator's end of the wire, for `edgewise` and for the coordinator's own sub-commands.
ew_module(cloud/opclient LAYER 9 DEPS base sys crypt text domain net wire session)
ew_module(cloud/coordd LAYER 10 DEPS base sys crypt text domain record show db net wire session kern model jobs
                                    signer registry planner offload experiment opclient LIBS PkgConfig::ssl)
ew_module(cloud/cli LAYER 10 DEPS base sys crypt text domain record show opclient net wire session kern format token chat rag model task peft probe
                                 train compress run planner registry experiment)
