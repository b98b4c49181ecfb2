# A role for each part, and in each what that part does, by name: no action has a wildcard.
#
#   task         what the gateway, the dispatcher, or the deployer does itself
#   execution    what ECS does to start it: its image, its secrets, its log
#   host         what the agent of ECS does on a host
#   flows        what the VPC's flow log does

locals {
  kafka_arn  = "arn:${local.partition}:kafka:${local.region}:${local.account}"
  kafka_path = "${aws_msk_cluster.this.cluster_name}/${aws_msk_cluster.this.cluster_uuid}"
  topic_arn  = "${local.kafka_arn}:topic/${local.kafka_path}"
  group_arn  = "${local.kafka_arn}:group/${local.kafka_path}"

  own_queue   = ["${local.topic_arn}/mayfly.${var.queue}.*"]
  every_queue = [for kind in ["high", "normal", "low", "events"] : "${local.topic_arn}/mayfly.*.${kind}"]
  topic       = { for name in ["audit", "control", "dead-letter", "functions"] : name => "${local.topic_arn}/mayfly.${name}" }
  readers     = ["${local.group_arn}/mayfly-*", "${local.group_arn}/mayfly.*-table"]
  owners      = ["${local.group_arn}/mayfly.${var.queue}", "${local.group_arn}/mayfly.${var.queue}.webhooks"]

  # Who reads and who writes what of the log, and in which groups.
  log_access = {
    gateway = {
      reads      = concat(local.every_queue, values(local.topic))
      writes     = concat(local.every_queue, values(local.topic))
      joins      = local.readers
      looks_into = ["${local.group_arn}/mayfly.*"]
    }
    dispatcher = {
      reads      = concat(local.own_queue, [local.topic["control"], local.topic["dead-letter"], local.topic["functions"]])
      writes     = concat(local.own_queue, [local.topic["dead-letter"]])
      joins      = concat(local.owners, local.readers)
      looks_into = local.owners
    }
    deployer = {
      reads      = [local.topic["audit"], local.topic["functions"]]
      writes     = [local.topic["audit"], local.topic["functions"]]
      joins      = local.readers
      looks_into = local.readers
    }
  }
  task_services = keys(local.log_access)

  # What each does in the bucket. A command may name any object of it as its task's payload, and one that may not be
  # read would be tried for ever. The deployer does nothing there.
  blob_access = {
    gateway    = { GetObject = ["*"], PutObject = ["payloads/*", "uploads/*"] }
    dispatcher = { GetObject = ["*"], PutObject = concat(["results/*", "logs/*"], local.function_prefix), DeleteObject = concat(local.blobs, local.function_prefix) }
    deployer   = {}
  }
  blobs = ["payloads/*", "results/*", "logs/*", "uploads/*"]

  # What each does with the key that functions' secrets are under: gateways seal, dispatchers open.
  secrets_access = {
    gateway    = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"]
    dispatcher = ["kms:Decrypt"]
    deployer   = []
  }

  # What each does with functions' images.
  image_access = {
    gateway    = []
    dispatcher = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    deployer = [
      "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload",
      "ecr:PutImage", "ecr:UploadLayerPart",
    ]
  }
}

# --- the parts themselves

data "aws_iam_policy_document" "tasks_may_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    # Of this account's clusters only.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "task" {
  for_each = toset(local.task_services)

  name               = "${var.name}-${each.key}"
  description        = "What a ${each.key} of ${var.name} may do"
  assume_role_policy = data.aws_iam_policy_document.tasks_may_assume.json

  tags = local.tags
}

data "aws_iam_policy_document" "task" {
  for_each = local.log_access

  statement {
    sid       = "Log"
    actions   = ["kafka-cluster:Connect", "kafka-cluster:DescribeCluster", "kafka-cluster:WriteDataIdempotently"]
    resources = [aws_msk_cluster.this.arn]
  }

  # Whoever starts first makes the topics that are missing.
  statement {
    sid       = "Topics"
    actions   = ["kafka-cluster:CreateTopic", "kafka-cluster:DescribeTopic"]
    resources = ["${local.topic_arn}/mayfly.*"]
  }

  statement {
    sid       = "Reads"
    actions   = ["kafka-cluster:ReadData"]
    resources = each.value.reads
  }

  statement {
    sid       = "Writes"
    actions   = ["kafka-cluster:WriteData"]
    resources = each.value.writes
  }

  statement {
    sid       = "Joins"
    actions   = ["kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup"]
    resources = each.value.joins
  }

  statement {
    sid       = "LooksInto"
    actions   = ["kafka-cluster:DescribeGroup"]
    resources = each.value.looks_into
  }

  # Whether the bucket is there is asked by listing what is nowhere in it.
  dynamic "statement" {
    for_each = length(local.blob_access[each.key]) > 0 ? [aws_s3_bucket.tasks.arn] : []

    content {
      sid       = "Bucket"
      actions   = ["s3:ListBucket"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = local.blob_access[each.key]

    content {
      sid       = statement.key
      actions   = ["s3:${statement.key}"]
      resources = [for prefix in statement.value : "${aws_s3_bucket.tasks.arn}/${prefix}"]
    }
  }

  dynamic "statement" {
    for_each = length(local.blob_access[each.key]) > 0 ? [aws_kms_key.data.arn] : []

    content {
      sid       = "BucketKey"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["s3.${local.region}.amazonaws.com"]
      }
    }
  }

  dynamic "statement" {
    for_each = length(local.secrets_access[each.key]) > 0 ? [aws_kms_key.secrets.arn] : []

    content {
      sid       = "Secrets"
      actions   = local.secrets_access[each.key]
      resources = [statement.value]
    }
  }

  # The password of a registry has no resource to be limited to; what it is good for, the next statement says.
  dynamic "statement" {
    for_each = length(local.image_access[each.key]) > 0 ? [1] : []

    content {
      sid       = "Registry"
      actions   = ["ecr:GetAuthorizationToken"]
      resources = ["*"]
    }
  }

  dynamic "statement" {
    for_each = length(local.image_access[each.key]) > 0 ? [aws_ecr_repository.this["functions"].arn] : []

    content {
      sid       = "Images"
      actions   = local.image_access[each.key]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "task" {
  for_each = local.log_access

  name   = "part"
  role   = aws_iam_role.task[each.key].id
  policy = data.aws_iam_policy_document.task[each.key].json
}

# --- starting them

resource "aws_iam_role" "execution" {
  for_each = toset(local.task_services)

  name               = "${var.name}-${each.key}-execution"
  description        = "What ECS needs to start a ${each.key} of ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.tasks_may_assume.json

  tags = local.tags
}

data "aws_iam_policy_document" "execution" {
  for_each = { gateway = local.gateway_secrets, dispatcher = local.dispatcher_secrets, deployer = [] }

  # It has no resource to be limited to.
  statement {
    sid       = "Registry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "Image"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.this["mayfly"].arn]
  }

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this[each.key].arn}:log-stream:*"]
  }

  dynamic "statement" {
    for_each = length(each.value) > 0 ? [each.value] : []

    content {
      sid       = "Settings"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = [for name in statement.value : aws_secretsmanager_secret.setting[name].arn]
    }
  }

  dynamic "statement" {
    for_each = length(each.value) > 0 ? [aws_kms_key.data.arn] : []

    content {
      sid       = "SettingsKey"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["secretsmanager.${local.region}.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role_policy" "execution" {
  for_each = toset(local.task_services)

  name   = "start"
  role   = aws_iam_role.execution[each.key].id
  policy = data.aws_iam_policy_document.execution[each.key].json
}

# --- hosts

data "aws_iam_policy_document" "hosts_may_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "host" {
  name               = "${var.name}-host"
  description        = "What the agent of ECS does on a host of ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.hosts_may_assume.json

  tags = local.tags
}

resource "aws_iam_instance_profile" "host" {
  name = "${var.name}-host"
  role = aws_iam_role.host.name

  tags = local.tags
}

data "aws_iam_policy_document" "host" {
  # These have no resource to be limited to.
  statement {
    sid       = "Endpoint"
    actions   = ["ecs:DiscoverPollEndpoint"]
    resources = ["*"]
  }

  statement {
    sid       = "Joins"
    actions   = ["ecs:DeregisterContainerInstance", "ecs:RegisterContainerInstance"]
    resources = [aws_ecs_cluster.this.arn]
  }

  statement {
    sid = "Agent"
    actions = [
      "ecs:Poll", "ecs:StartTelemetrySession", "ecs:SubmitAttachmentStateChanges", "ecs:SubmitContainerStateChange",
      "ecs:SubmitTaskStateChange", "ecs:UpdateContainerInstancesState",
    ]
    resources = ["*"]

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [aws_ecs_cluster.this.arn]
    }
  }

  # A shell on a host, by Session Manager: no port, no key. These have no resource to be limited to.
  statement {
    sid = "Sessions"
    actions = [
      "ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
    ]
    resources = ["*"]
  }
}

resource "aws_iam_role_policy" "host" {
  name   = "host"
  role   = aws_iam_role.host.id
  policy = data.aws_iam_policy_document.host.json
}

# --- the flow log

data "aws_iam_policy_document" "flows_may_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["vpc-flow-logs.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "flows" {
  name               = "${var.name}-flows"
  description        = "What the flow log of ${var.name}'s VPC writes"
  assume_role_policy = data.aws_iam_policy_document.flows_may_assume.json

  tags = local.tags
}

data "aws_iam_policy_document" "flows" {
  statement {
    actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    resources = [aws_cloudwatch_log_group.this["flows"].arn, "${aws_cloudwatch_log_group.this["flows"].arn}:log-stream:*"]
  }
}

resource "aws_iam_role_policy" "flows" {
  name   = "flows"
  role   = aws_iam_role.flows.id
  policy = data.aws_iam_policy_document.flows.json
}
