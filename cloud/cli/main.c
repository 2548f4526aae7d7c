/* `edgewise`: the operator's and experimenter's command. */
#include <stdlib.h>

#include "cli/app.h"
#include "cli/data.h"
#include "cli/experiment.h"
#include "cli/fleet.h"
#include "cli/model.h"
#include "cli/op.h"
#include "cli/train.h"
#include "sys/cli.h"
#include "sys/signal.h"

static const ew_cli_command model_commands[] = {
    {"info", "MODEL", "what a model is: shape, types, tokenizer, memory", .run = ew_cli_model_info},
    {"generate", "MODEL PROMPT", "continue a text", .run = ew_cli_model_generate},
    {"bench", "MODEL", "tokens per second of prompt and generation", .run = ew_cli_model_bench},
    {"eval", "MODEL TEXT", "perplexity of a text, as llama.cpp counts it", .run = ew_cli_model_eval},
    {"logits", "MODEL TEXT", "what the model expects next", .run = ew_cli_model_logits},
    {"tokenize", "MODEL TEXT", "the token ids of a text, or the text of ids", .run = ew_cli_model_tokenize},
    {"quantize", "MODEL OUT --type TYPE", "write a model as GGUF in another type", .run = ew_cli_model_quantize},
    {"import", "MODEL --name NAME --operator DIR", "make variants and publish them", .run = ew_cli_model_import},
    {"list", "--operator DIR", "what the coordinator publishes", .run = ew_cli_model_list},
};

static const char *const examples = "  edgewise model info ./TinyStories-656K\n"
                                    "  edgewise model generate ./TinyStories-656K 'Once upon a time'\n"
                                    "  edgewise model quantize ./TinyLlama tinyllama-q4_0.gguf --type Q4_0\n";

int main(int argc, char **argv)
{
    const ew_cli_command commands[] = {
        {"model", NULL, "models: look, run, measure, convert", .sub = model_commands,
         .n_sub = EW_COUNT(model_commands)},
        {"data", NULL, "records of people and the debian benchmark", .sub = ew_cli_data_commands,
         .n_sub = ew_cli_n_data_commands},
        {"lamp", NULL, "LaMP's benchmark: answer its questions, score answers", .sub = ew_cli_lamp_commands,
         .n_sub = ew_cli_n_lamp_commands},
        {"experiment", NULL, "grids of trials on the fleet, and their reports", .sub = ew_cli_experiment_commands,
         .n_sub = ew_cli_n_experiment_commands},
        {"fleet", NULL, "what the devices did", .sub = ew_cli_fleet_commands, .n_sub = ew_cli_n_fleet_commands},
        {"train", NULL, "pre-training of small models, tuning to a person", .sub = ew_cli_train_commands,
         .n_sub = ew_cli_n_train_commands},
        {"token", NULL, "enrolment of devices", .sub = ew_cli_token_commands, .n_sub = ew_cli_n_token_commands},
        {"device", NULL, "the devices of the fleet", .sub = ew_cli_device_commands, .n_sub = ew_cli_n_device_commands},
        {"plan", NULL, "what devices are told, and why", .sub = ew_cli_plan_commands, .n_sub = ew_cli_n_plan_commands},
        {"trial", NULL, "the queue of trials", .sub = ew_cli_trial_commands, .n_sub = ew_cli_n_trial_commands},
        {"evidence", NULL, "finished trials that plans rest on", .sub = ew_cli_evidence_commands,
         .n_sub = ew_cli_n_evidence_commands},
    };
    const ew_cli_program program = {.name = EW_CLI_PROG,
                                    .version = EW_VERSION,
                                    .doc =
                                        "Language models that live and learn on people's devices: the operator's and "
                                        "experimenter's command.",
                                    .commands = commands,
                                    .n_commands = EW_COUNT(commands),
                                    .examples = examples};
    ew_error err = EW_ERROR_INIT;
    if (ew_signal_init(&err) != EW_OK) {
        return ew_cli_fail(EW_CLI_PROG, err.code, &err);
    }
    ew_cli_app app = {.kernel = getenv("EW_CPU")};
    return ew_cli_main(&program, argc, argv, &app);
}
