/* Vocabularies in files: GGUF metadata, Hugging Face's tokenizer.json and SentencePiece's model to ew_vocab, and ew_vocab to GGUF metadata.
 *
 * What GGUF's own keys cannot say (patterns without a known name, the prefix rule of tokenizer.json, merges of characters) is kept in keys under
 * edgewise.tokenizer.*; files without them are read as llama.cpp reads them. */
#ifndef EW_MODEL_VOCAB_H
#define EW_MODEL_VOCAB_H

#include "base/base.h"
#include "base/status.h"
#include "format/gguf.h"
#include "token/vocab.h"

/* From the tokenizer.* keys. EW_EUNSUPPORTED names a model or pre-tokenizer that this build does not know, EW_ENOENT when there is no
 * vocabulary in the file, EW_ECORRUPT. */
ew_status ew_vocab_from_gguf(const ew_gguf *g, ew_vocab **ret_vocab, ew_error *reterr) EW_MUST_CHECK;

/* From dir/tokenizer.json with dir/tokenizer_config.json, special_tokens_map.json, generation_config.json and chat_template.jinja where they
 * exist. Without tokenizer.json from tokenizer.model, from vocab.json with merges.txt, or from vocab.txt. EW_EUNSUPPORTED names the part that this
 * build does not know, EW_ENOENT when there is none of the files. */
ew_status ew_vocab_from_hf(const char *dir, ew_vocab **ret_vocab, ew_error *reterr) EW_MUST_CHECK;

/* From SentencePiece's model in memory (tokenizer.model, spiece.model): unigram or BPE. name stands for the file in messages. EW_ECORRUPT,
 * EW_EUNSUPPORTED for models of words or characters. */
ew_status ew_vocab_from_spm(const char *name, const void *data, size_t size, ew_vocab **ret_vocab,
                            ew_error *reterr) EW_MUST_CHECK;

/* tokenizer.json from memory; config (tokenizer_config.json) may be NULL. name stands for the file in messages. */
ew_status ew_vocab_from_hf_text(const char *name, const void *tokenizer, size_t size, const void *config,
                                size_t config_size, ew_vocab **ret_vocab, ew_error *reterr) EW_MUST_CHECK;

/* Adds the tokenizer.* (and edgewise.tokenizer.*) keys to a file being written, before its begin. */
ew_status ew_vocab_write_gguf(ew_gguf_writer *w, const ew_vocab *v, ew_error *reterr) EW_MUST_CHECK;

#endif
