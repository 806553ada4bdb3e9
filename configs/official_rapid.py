r"""RAPID's published evaluation on LongBench v2, repeated as it was run: LLaMA-3.1-8B drafting for itself.

    python -m launch.evaluate --config=configs/official_rapid.py \
        --target=PATH --config.retrieval.embedder=encoder:BGE_M3_PATH \
        --benchmark=longbench_v2 --data=data.json --prompts=LongBench/prompts \
        --context_lengths=120000 --methods=lc,rag,sd,rapid --output=out

PATH is the checkpoint, BGE_M3_PATH that of BAAI/bge-m3, and LongBench a
checkout of THUDM/LongBench. --cot asks for the reasoning first. The paper
prints an overall accuracy of 28.0 for lc and 32.4 for rapid (30.4 and 34.2
with --cot). One question can also be asked:

    python -m launch.generate --config=configs/official_rapid.py \
        --target=PATH --config.retrieval.embedder=encoder:BGE_M3_PATH \
        --context_file=FILE --query=QUESTION

Beside the settings of configs/llama31_8b.py it sets, line by line:

evaluation.retrieval_query   "question_and_choices": the query holds the answer
                             options. Default: the question alone, as in the paper.
evaluation.passages_prompt   "passages": the drafter's prompt says "retrieved text
                             chunks". Default: the words of the document's prompt.
evaluation.longbench_answer  "rapid": "the correct answer is (B)" counts. Default:
                             "The correct answer is", as LongBench v2 has it.
retrieval.from_truncated     False: passages come from the whole document, also
                             where the target reads it without its middle. Default:
                             from what the target reads.
retrieval.count_from         "truncated": the number of passages follows the length
                             that the target reads. Default: the length of the text
                             that is retrieved from.
retrieval.threshold          0.3. Default: that of the encoder.
retrieval.below_threshold    "empty": where no passage reaches the threshold, the
                             drafter reads none. Default: the best one.
speculation.stop_confidence  0.1: a draft ends behind a token to which the drafter
                             gave less. Default: 0, drafts have gamma tokens.
sampling.from_checkpoint     top_k and repetition_penalty are those of the
                             checkpoint's generation_config.json (top_k is 50 where
                             it names none, as in transformers). Temperature 0.1 and
                             top_p 1 were set by the evaluation. Default: none.

Three things stay different. A repetition penalty other than 1, which the
Qwen2.5 checkpoints have, is refused: --config.sampling.from_checkpoint=top_k
leaves it out. The five passages that the published code adds by BM25 are not
added. The random numbers are others, so single answers differ.
"""

from configs import base


def get_config():
    config = base.paper("meta-llama/Llama-3.1-8B-Instruct", mesh=(1, 1, 1))
    config.evaluation.retrieval_query = "question_and_choices"
    config.evaluation.passages_prompt = "passages"
    config.evaluation.longbench_answer = "rapid"
    config.retrieval.from_truncated = False
    config.retrieval.count_from = "truncated"
    config.retrieval.threshold = 0.3
    config.retrieval.below_threshold = "empty"
    config.speculation.stop_confidence = 0.1
    config.sampling.from_checkpoint = ("top_k", "repetition_penalty")
    return config
