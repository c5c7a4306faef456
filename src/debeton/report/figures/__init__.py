"""Figures of a report. All functions return matplotlib figures, most of them None if there is nothing to draw.

plots: all figures of a report, and the bar charts.
axes: accuracy against one or two settings.
curves: values by epoch.
maps: heat maps of many groups, and the colours.
pictures: grids of images.
style: letter sizes, and the looks of settings.
"""
