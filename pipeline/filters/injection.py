"""Speech that speaks to the LLM instead of to a listener: attempts to inject instructions into its prompt.

Transcripts stand in prompts as data and cannot leave their place, but a model may still obey what they say. What an
LLM has written from such a transcript is set aside; computed samples are not, since nobody has read theirs. The
phrases are those of attacks, in English, Russian and Portuguese: another wording, or another language, passes.
"""

from __future__ import annotations

import re
from typing import ClassVar

from pipeline.stage import Filter
from pipeline.text import has_any
from schemas.sample import Rejection, Sample

_FLAGS = re.IGNORECASE | re.VERBOSE
_EN = re.compile(
    r"""
    \b(?: (?:ignore|disregard|forget|override|bypass|(?:do\ not|don['’]t|stop)\ follow(?:ing)?|pay\ no\ attention\ to)
          (?: \ (?:\w+\ ){0,3}?(?:previous|prior|above|earlier|preceding|foregoing|system|original|initial|all)
              \ (?:\w+\ ){0,3}?(?:instruction|prompt|guideline)s?\b
            | \ (?:\w+\ ){0,2}?your\ (?:\w+\ ){0,2}?(?:instructions?|prompts?|guidelines|programming|restrictions)\b
            | \ (?:everything|all|anything)\ (?:that\ )?you\ (?:were|have\ been)\ instructed\b
          )
        | (?:reveal|print|show|repeat|output|display|tell|give|leak|recite|translate|what\ (?:is|are|were))
          (?: \ (?:\w+\ ){0,3}?(?:system|hidden|secret|developer)\ (?:prompt|instructions)\b
            | \ (?:\w+\ ){0,3}?your\ (?:\w+\ )?(?:system|initial|original|hidden|exact)\ (?:prompt|instructions)\b
            | \ (?:\w+\ ){0,3}?(?:instructions|prompt)\ (?:that\ )?you\ (?:were|have\ been)\ given\b
          )
        | you\ are\ (?:now|no\ longer)\ (?:\w+\ ){0,3}?(?:ai|chat-?bot|language\ model|dan|jailbroken|bound\ by)\b
        | (?:pretend|act\ as\ if|imagine)\ (?:that\ )?you\ (?:have|had)\ no\ (?:\w+\ )?(?:restrictions|guidelines)\b
        | (?:enter|enable|activate|switch\ to)\ (?:\w+\ ){0,2}?(?:developer|jailbreak|dan|god)\ mode\b
        | (?:note|message|instructions?|attention)\ (?:to|for)\ (?:the\ |any\ |all\ )?
          (?:ai|ai\ (?:models?|assistants?)|language\ models?)\b
        | (?:new|updated|real)\ (?:system\ )?(?:instructions?|task)(?:\ for\ you)?\ ?:
        | (?:begin|end)\ (?:of\ )?system\ prompt\b
    )
    """,
    _FLAGS,
)
_EN_HAS = ("nstruct", "prompt", "guideline", "programming", "restrict", "you are n", " mod", " ai", " task")
"""Each match has one of these in it; so with the others."""
_RU = re.compile(
    r"""
    \b(?: (?:(?:про)?игнорируй|забудь|отбрось|отмени|не\ (?:следуй|соблюдай|выполняй)|не\ обращай\ внимания\ на)(?:те)?
          (?: \ (?:\w+\ ){0,3}?(?:вс[её]|всех|всем|любые|(?:предыдущ|прежн|прошл|системн|изначальн|исходн)\w+)
              \ (?:\w+\ ){0,3}?(?:инструкци|промпт|директив)\w*
            | \ (?:\w+\ ){0,3}?(?:предыдущ|прежн|системн|изначальн)\w+
              \ (?:\w+\ ){0,2}?(?:указани\w+|установк\w+|команды|командам|правил\w*)\b
            | \ (?:\w+\ ){0,2}?(?:сво|тво|ваш)(?:и|их|им)\ (?:\w+\ ){0,2}?(?:инструкци|промпт|директив|ограничени)\w*
          )
        | (?:покажи|выведи|раскрой|напечатай|повтори|процитируй|назови|сообщи|напиши|скажи)(?:те)?
          \ (?:\w+\ ){0,4}?(?:системн|скрыт|исходн|изначальн|секретн)\w+\ (?:промпт|инструкци)\w*
        | как(?:ой|ова?|ие)\ (?:у\ тебя\ |тво[йи]\ |ваши?\ )?системн\w+\ (?:промпт|инструкци)\w*
        | (?:ты|вы)\ (?:теперь|отныне|больше\ не)\ (?:\w+\ ){0,3}?(?:нейросет\w+|чат-?бот\w*|языков\w+\ модел\w+)\b
        | (?:включи|активируй|перейди\ в|войди\ в)(?:те)?\ (?:\w+\ ){0,2}?режим\ (?:разработчика|без\ ограничений)\b
        | (?:сообщение|инструкци[яи]|указание)\ для\ (?:ии|нейросет\w+|языков\w+\ модел\w+|чат-?бот\w*)\b
        | нов(?:ые|ая)\ (?:системн\w+\ )?инструкци[ия]\ ?:
    )
    """,
    _FLAGS,
)
_RU_HAS = (
    *("нструкци", "промпт", "директив", "указани", "установк", "команд", "правил", "ограничени"),
    *("режим", "нейросет", "бот", "модел", "для ии"),
)
_PT = re.compile(
    r"""
    \b(?: (?:ignor(?:e|a|em|ar)|desconsider(?:e|a|em|ar)|esque(?:ça|ce|çam|cer)|não\ sig(?:a|as)|descart(?:e|a))
          (?: \ (?:\w+\ ){0,3}?(?:instruç(?:ões|ão)|prompts?|diretrizes)
              \ (?:\w+\ ){0,2}?(?:anterior(?:es)?|prévi[ao]s?|acima|originais|iniciais|do\ sistema)\b
            | \ (?:\w+\ ){0,2}?tod[ao]s\ (?:[ao]s\ )?(?:\w+\ ){0,2}?(?:instruções|prompts|diretrizes)\b
            | \ (?:[ao]s\ )?(?:suas|tuas|seus|teus)\ (?:\w+\ )?(?:instruções|prompts|diretrizes|restrições)\b
          )
        | (?:mostr[ea]|revel[ea]|exib[ae]|imprim[ae]|repit[ae]|repete|dig[ao]|diz|escrev[ae]|qual\ é|quais\ são)
          (?: \ (?:\w+\ ){0,4}?prompt\ (?:d[eo]\ sistema|inicial|original|ocult[ao]|secreto)\b
            | \ (?:\w+\ ){0,4}?instruções\ (?:d[eo]\ sistema|ocultas|secretas|iniciais|originais)\b
          )
        | (?:você|tu)\ (?:agora|já\ não|não)\ (?:é|és|será)\ (?:mais\ )?(?:\w+\ ){0,3}?
          (?:inteligência\ artificial|chat-?bot|modelo\ de\ linguagem)\b
        | (?:ativ[ea]|entr[ea]\ n?o?|habilit[ea])\ (?:o\ )?modo\ (?:de\ )?(?:desenvolvedor|programador)\b
        | (?:mensagem|instruç(?:ão|ões)|nota|aviso)\ para\ (?:a\ |o\ )?(?:inteligência\ artificial|modelo\ de\ ling)
        | nov(?:as|a)\ instruç(?:ões|ão)\ ?:
    )
    """,
    _FLAGS,
)
_PT_HAS = ("nstruç", "prompt", "diretriz", "restriç", "inteligência", "modelo de", "bot", "modo ")
_OTHERS_HAVE = (*_RU_HAS, *_PT_HAS)
_TURNS = re.compile(
    r"""
      <\|(?:im_(?:start|end|sep)|eot_id|eom_id|(?:start|end)_header_id|begin_of_text|start_of_role|end_of_role
        |system|user|assistant|end|start|channel|message)\|>
    | <｜(?:User|Assistant|begin▁of▁sentence)｜> | </?(?:start|end)_of_turn> | <</?SYS>> | \[/?(?:INST|SYSTEM_PROMPT)\]
    | \#\#\#\ ?(?:system|instructions?|assistant|response|human)\b\ ?: | "role"\s?:\s?"(?:system|assistant|developer)"
    | (?:\A|[.!?]\ )(?:system|developer|система|sistema)(?:\ (?:prompt|message))?\s?:\ ?
      (?=you\b|ignor|new\b|override|ты\b|игнор|você\b)
    | </?\s?transcript\s?>
    """,
    _FLAGS,
)
"""What parts the turns and roles of a conversation. `<|en|>`, `<|0.00|>` and `<unk>` are a recogniser's, and do not."""
_TURNS_HAVE = ("<", "INST]", "PROMPT]", "###", '"role"', "ystem", "eveloper", "истема", "istema")


class Injection(Filter):
    """Looks for phrases and marks of such attempts in transcripts, and in what an LLM has written from them."""

    order: ClassVar[int] = -2  # an LLM that declines to obey is no worse than one that obeys

    def reason(self, sample: Sample) -> Rejection | None:
        if not sample.provenance.engine:
            return None
        said = [utterance.transcript for utterance in sample.utterances]
        written = [*(message.content for message in sample.messages), sample.provenance.reply]
        if not _looks_worth_it("\n".join((*said, *written))):
            return None
        for where, texts in (("transcript", said), ("reply", written)):
            for text in texts:
                if found := attempt(text):
                    return Rejection("prompt_injection", f"{where}: {found!r}")
        return None


def attempt(text: str) -> str:
    """What looks like an attempt in a text; empty if nothing does."""
    text = " ".join(text.split())
    found = _TURNS.search(text) or _EN.search(text) or _RU.search(text) or _PT.search(text)
    return found[0][:120] if found else ""


def _looks_worth_it(text: str) -> bool:
    """Whether there can be something in a text: it takes a tenth of the time of the expressions."""
    lower = text.lower()
    if has_any(lower, _EN_HAS) or has_any(text, _TURNS_HAVE):
        return True
    return not text.isascii() and has_any(lower, _OTHERS_HAVE)
