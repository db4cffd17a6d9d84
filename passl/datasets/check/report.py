"""The report as text: short, the most important first, with what to do about it."""

from typing import Any

from ..values import natural_range, words_of

_SHOWN = 3


def shown(name: str) -> str:
    """A name in one line, as the terminal can show it."""
    text = repr(name)[1:-1] if any(not c.isprintable() for c in name) else name
    return text.encode('utf-8', 'backslashreplace').decode('utf-8')


def _sample(names, number=None):
    number = len(names) if number is None else number
    more = [f'... {number - _SHOWN} more'] if number > _SHOWN else []
    return [f'    {line}' for line in [*map(shown, names[:_SHOWN]), *more]]


def _unreadable(report, role):
    bad = report[role]['unreadable']
    reasons = {}
    for entry in bad:
        reasons[entry['reason']] = reasons.get(entry['reason'], 0) + 1
    kinds = ', '.join(f'{n} {r}' for r, n in sorted(reasons.items(), key=lambda x: (-x[1], x[0])))
    return bad and [f"{len(bad)} of {report[role]['images']} images cannot be read ({kinds}). Mend or remove them, or "
                    'train on the list of --write-list.',
                    *_sample([f"{b['file']}: {b['detail'] or b['reason']}" for b in bad])]


def _range(values):
    """Lines on the range of files with more than 8 bits."""
    kinds = ', '.join(f'{n} of {words_of(kind)}' for kind, n in values['kinds'].items())
    low, high = values['measured']
    lines = [f"{sum(values['kinds'].values())} images hold more than 8 bits per value ({kinds}), from "
             f"{values['lowest']:g} to {values['highest']:g}. Put this beside dataroot, for training and validation "
             'alike:',
             f'    value_range: [{low}, {high}]',
             '    measured over the set, without the outermost 0.1 % of each image.']
    if low >= 0 and 255 < values['highest'] < 32768 and isinstance(values['highest'], int):
        bits = values['highest'].bit_length()
        lines[-1] += f' If the device has {bits} bits, [0, {2**bits - 1}] is right as well.'
    for kind in values['kinds']:
        natural = natural_range(kind)
        share = natural and (high - low) / (natural[1] - natural[0])
        fate = f'read as {natural[0]} to {natural[1]}, of which these use {share:.1%}' if natural else 'refused'
        lines.append(f'    Without it {words_of(kind)} are {fate}.')
    return lines


def _of_values(key, part):
    """As `_of_part`, for what numbers mean."""
    values = part['values'] or {'measured': None, 'cut': 0}
    if key in ('value_range', 'deep') and values['measured'] and not values['value_range']:
        return _range(values)
    if key == 'narrow' and part[key]:
        return [f'{len(part[key])} images use less than 5 % of the range of values. They show next to nothing: remove '
                'them, mend the range, or keep files of different quantities in folders of their own.',
                *_sample(part[key])]
    if key == 'cut' and values['cut']:
        return [f"{values['cut']} images hold values outside value_range {values['value_range']}, which become black "
                f"or white. Measured: {values['measured']}."]
    return []


def _of_part(key, report, role):
    """Lines on the finding `key` of one part, the first without indent; empty if there is none."""
    part = report[role]
    labels, sizes = part['labels'] or {'empty': [], 'imbalance': None, 'images_per_class': {}}, part['sizes']
    if key == 'unreadable':
        return _unreadable(report, role)
    if key == 'folders_not_listed' and part[key]:
        return [f'{len(part[key])} folders cannot be listed; a training stops at them. Mend their rights.',
                *_sample([f"{x['folder']}: {x['reason']}" for x in part[key]])]
    if key == 'empty_classes' and labels['empty']:
        return [f"{len(labels['empty'])} classes hold no images. Fill them or remove their folders.",
                *_sample(labels['empty'])]
    if key == 'looks_like_splits' and part[key]:
        return ['The folder holds train, val ... together: a training would learn from all. Give them as '
                '--train FOLDER/train --val FOLDER/val.']
    if key == 'blank' and part[key]:
        return [f'{len(part[key])} images are blank (one colour). They teach nothing.', *_sample(part[key])]
    if key in ('value_range', 'deep', 'narrow', 'cut'):
        return _of_values(key, part)
    if key == 'imbalance' and (labels['imbalance'] or 0) > 10:
        return [f"The largest class has {labels['imbalance']:g} times the images of the smallest."]
    if key in ('too_small', 'extreme_aspect') and sizes[key]['number']:
        found = sizes[key]
        text = f"have a side below {found['below']} px and are enlarged by crops of that size (--size N asks for " \
               'another)' if key == 'too_small' else f"are more than {found['above']} times as long as wide"
        return [f"{found['number']} images {text}.", *_sample(found['files'])]
    if key == 'wrong_ending' and part[key]:
        return [f'{len(part[key])} files have the ending of another format. They are read by their content.',
                *_sample([f"{x['file']}: {x['format']}" for x in part[key]])]
    if key == 'left_out' and part[key]['words']:
        return [f"left out: {words}." for words in part[key]['words']] + [
            f'    {words}' for words in part[key]['pictures']]
    if key == 'masks':
        return part[key][:1] + [f'    {words}' for words in part[key][1:]]
    return []


def _of_all(key, report):
    """Lines on a finding over both parts."""
    if key == 'overlap':
        found = report[key]['exact']
        return [f'{len(found)} images of val are in train as well: the evaluation is too good by them. Remove them '
                'from one side.', *_sample([f"{p['val']} = {p['train']}" for p in found])]
    if key == 'two_labels':
        groups = report[key]['exact']
        return [f'{len(groups)} images stand under two labels. Decide for one.', *_sample([
            ' | '.join(f"{e['file']} ({e['class']})" for e in g[:2]) for g in groups])]
    if key == 'class_difference':
        found = report[key]
        return ['The classes of train and val differ, so their numbers do not mean the same. '
                f"Only in train: {', '.join(map(shown, found['only_in_train'][:5])) or '-'}; only in val: "
                f"{', '.join(map(shown, found['only_in_val'][:5])) or '-'}."]
    if key == 'exact_duplicates':
        found = report[key]
        groups = [' = '.join(map(shown, g[:_SHOWN])) + (f' ... ({len(g)})' if len(g) > _SHOWN else '')
                  for g in found['groups']]
        return [f"{found['superfluous']} images are copies of others, byte by byte. --write-list FILE "
                '--drop-duplicates leaves them out.', *_sample(groups)]
    return None


def _head(report, role):
    part = report[role]
    formats = ', '.join(f'{n} {f}' for f, n in part['formats'].items()) or 'none'
    modes = ', '.join(f'{n} {m}' for m, n in part['modes'].items() if n)
    lines = [f"{role}: {part['images']} images, {part['bytes'] / 2**20:.1f} MiB ({formats})"]
    for entry in part['paths']:
        lines.append(f"  {shown(entry['path'])}: {entry['images']} images, read as {entry['read_as']}")
    if modes:
        lines.append(f'  of them: {modes}')
    width, height = part['sizes']['width'], part['sizes']['height']
    if width:
        lines.append('  width {smallest} - {largest}, median {median}; '.format(**width)
                     + 'height {smallest} - {largest}, median {median}'.format(**height))
    counts = part['labels'] and part['labels']['images_per_class']
    if counts:
        lines.append(f'  {len(counts)} classes with {min(counts.values())} to {max(counts.values())} images')
    return lines


def text_report(report: dict[str, Any]) -> list[str]:
    """Lines of text."""
    lines = [line for role in ('train', 'val') if report[role] for line in _head(report, role)]
    for title, keys in (('problem', report['problems']), ('note', report['notes'])):
        for key in keys:
            found = _of_all(key, report)
            blocks = [('', found)] if found else [
                (f'{role}: ' if report['val'] else '', _of_part(key, report, role)) for role in ('train', 'val')
                if report[role]]
            for place, block in blocks:
                if block:
                    lines += [f'{title}: {place}{block[0]}', *block[1:]]
    lines.append(f"{len(report['problems'])} kinds of problems, {len(report['notes'])} notes."
                 if report['problems'] else f"No problems, {len(report['notes'])} notes.")
    return lines
