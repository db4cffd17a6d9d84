"""What the codes of `passl.utils.health` mean, in English and Chinese: one sentence, and what to do."""

import string
from typing import Any, Literal, Mapping

Language = Literal['en', 'zh']

# {code: {language: (sentence, advice)}}; what stands in [ ] is said if all its figures are there
_WORDS: dict[str, dict[str, tuple[str, str]]] = {
    'filling': {
        'en': ('queue filling[ ({queue_fill:.0f} % of its keys are real)]: a rising loss is normal[ until step '
               '{until:.0f}]', ''),
        'zh': ('队列填充中[（{queue_fill:.0f} % 的键是真实的）]：[在第 {until:.0f} 步之前，]损失上升是正常的', '')},
    'healthy': {
        'en': ('healthy: features are spread[ (std {std:.2f})], and queries find their keys better than by guessing[ '
               '(acc1 {acc1:.1f} %)]', ''),
        'zh': ('健康：特征分散[（std {std:.2f}）]，查询找到自己的键好于猜测[（acc1 {acc1:.1f} %）]', '')},
    'position': {
        'en': ('dense task solved by position:[ acc1_dense is {acc1_dense:.0f} %,][ but a cell finds its key among '
               'the cells at the same place of other images in {acc1_place:.0f} % only:] the place of a cell gives '
               'the answer away, and the dense loss teaches little',
               'Zero padding tells a cell its place, soonest at small crops, and place tells pooled negatives apart. '
               'Set model.correspondence: Regions with model.negatives: batch, use larger crops, or lower '
               'model.loss_lambda.'),
        'zh': ('密集任务靠位置就解决了：[acc1_dense 为 {acc1_dense:.0f} %，][但在其他图像同一位置的格子中，只有 '
               '{acc1_place:.0f} % 的格子找到自己的键：]格子的位置泄露了答案，密集损失几乎教不了什么',
               '零填充把位置告诉了格子，裁剪越小越早出现，而池化的负样本靠位置就能区分。请设置 '
               'model.correspondence: Regions '
               '与 model.negatives: batch，或用更大的裁剪，或降低 model.loss_lambda。')},
    'collapsing': {
        'en': ('collapsing:[ std is {std:.4f}][ std_dense is {std_dense:.4f}][, below {limit:g}] (1: spread evenly, 0: '
               'the same vector for every image or cell)[; chance is loss {chance:.3f}]',
               'Likely causes: a learning rate that is far too high, a key encoder that follows too fast (model.m), '
               'images that all look alike or are blank (passl check-data), frozen or broken weights. Lower '
               'lr_scheduler.learning_rate first.'),
        'zh': ('正在坍缩：[std 为 {std:.4f}][std_dense 为 {std_dense:.4f}][，低于 {limit:g}]（1：均匀分散，0：'
               '所有图像或格子都是'
               '同一个向量）[；猜测的损失为 {chance:.3f}]',
               '可能的原因：学习率过高、键编码器跟得太快（model.m）、图像都很相似或是空白的（passl '
               'check-data）、权重被冻结或'
               '损坏。请先降低 lr_scheduler.learning_rate。')},
    'shortcut': {
        'en': ('shortcut: the task is too easy[, acc1 is {acc1:.2f} %][, acc1_dense is {acc1_dense:.2f} %][, at or '
               'above {limit:g} %]; such a network learns little',
               'Likely causes: both views are the same picture (is there a random crop in transforms?), batch '
               'statistics that tell which query belongs to which key (model.bn_splits with one card), few images that '
               'are known by heart, a queue that is too short (model.K), duplicates or images that differ in trivial '
               'ways (passl check-data).'),
        'zh': ('捷径：任务太简单[，acc1 为 {acc1:.2f} %][，acc1_dense 为 {acc1_dense:.2f} %][，达到或超过 '
               '{limit:g} %]；'
               '这样的网络学到的很少',
               '可能的原因：两个视图是同一幅画面（transforms 中有随机裁剪吗？）、批统计量泄露了查询与键的对应（单卡时 '
               'model.bn_splits）、图像太少而被记住、队列太短（model.K）、'
               '重复的图像或差别微不足道的图像（passl check-data）。')},
    'guessing': {
        'en': ('guessing:[ loss is {loss:.3f}][ loss_dense is {loss_dense:.3f}][ in '
               'the mean of {steps:.0f} log steps], at chance[ ({chance:.3f} for {negatives:.0f} negatives)]: queries '
               'find their keys no better than by guessing',
               'Likely causes: views of different images are paired (own data set or changes of the model), keys in '
               'the wrong order, a learning rate that is far too low (a long warm-up?) or far too high, too few '
               'steps so far, frozen weights. Look at acc1, at the rate in the log line, and at a few pairs of views.'),
        'zh': ('在猜测：[loss 为 {loss:.3f}][loss_dense 为 {loss_dense:.3f}]'
               '[（{steps:.0f} 个日志步的平均）]，等于猜测的水平[（{negatives:.0f} 个负样本时为 {chance:.3f}）]'
               '：查询找到自己的'
               '键不比猜测好',
               '可能的原因：配对的视图来自不同的图像（自己的数据集或对模型的改动）、键的顺序错误、'
               '学习率过低（预热太长？）或'
               '过高、步数还太少、权重被冻结。请看 acc1、日志行中的学习率和几对视图。')},
}

_SAME_CELLS = {         # instead of the advice for a shortcut, where only cells took it
    'en': 'Likely causes: both views are the same picture, or dense keys that were not put back in order after the '
          'shuffle, so that queries are compared with themselves or by place: look at your own changes of the model. '
          'Small crops and pooled negatives do the same (model.correspondence: Regions with model.negatives: batch).',
    'zh': '可能的原因：两个视图是同一幅画面，或打乱后的密集键没有恢复顺序，查询因此与自己比较或只靠位置：'
          '请检查您自己对模型的改动。'
          '小裁剪和池化的负样本也会如此（model.correspondence: Regions 与 model.negatives: batch）。'}


def sentence(code: str, figures: Mapping[str, Any], language: Language = 'en') -> str:
    """What `code` says of a run, one sentence without a full stop.

    Args:
        figures: as `Judge.see` and `verdict` give them; what is missing is not mentioned.
    Raises:
        KeyError: `code` is none of `health.CODES`.
    """
    return _filled(_WORDS[code][language][0], figures)


def advice(code: str, figures: Mapping[str, Any], language: Language = 'en') -> str:
    """Likely causes and what to do, as sentences; '' where there is nothing to do."""
    if code == 'shortcut' and 'acc1_dense' in figures:
        return _SAME_CELLS[language]
    return _filled(_WORDS[code][language][1], figures)


def told(code: str, figures: Mapping[str, Any], language: Language = 'en') -> str:
    """`sentence` and, where there is one, `advice` after it."""
    more = advice(code, figures, language)
    return sentence(code, figures, language) + (('。' if language == 'zh' else '. ') + more if more else '')


def _filled(template, figures):
    """The template without the parts in [ ] that need figures which are not there."""
    out, parts = '', template.split('[')
    for part in parts:
        inside, bracket, after = part.partition(']')
        if not bracket:
            out += part
            continue
        fields = list(string.Formatter().parse(inside))             # (text before, name, format, conversion)
        if all(name in figures for _, name, _, _ in fields if name):
            out += ''.join(text + (format(figures[name], spec) if name else '') for text, name, spec, _ in fields)
        out += after
    return out
