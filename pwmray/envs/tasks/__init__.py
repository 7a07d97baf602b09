"""The tasks that TD-MPC2 added to dm_control's, one file a domain, one function a task.

Each function returns a `control.Environment`; its name is the task's `dm_task` in pwmray.tasks.
Formulas are those of TD-MPC2 (arXiv 2310.16828, commit e9f5932).
"""
